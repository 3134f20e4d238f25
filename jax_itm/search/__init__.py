"""An index of one's own pictures: made and kept up to date, searched by caption or picture."""
