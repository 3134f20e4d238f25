"""An index of a folder of pictures: built, updated, and searched by caption or picture."""
