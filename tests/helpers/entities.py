"""Flickr30k with the annotations of Flickr30k Entities."""

from tests.helpers.pictures import picture

SENTENCES = (
    "[/EN#1/people Two men] in [/EN#2/clothing red hats] watch [/EN#0/notvisual it] .\n"
    "[/EN#3/people/other A \"third\" man] is on [/EN#4/scene a street] .\n"
)  # fmt: skip

CAPTIONS = ["Two men in red hats watch it.", "a third man is on a street", "Something else."]


def thing(*chains, box=None):
    names = "".join(f"<name>{chain}</name>" for chain in chains)
    if box is None:
        return f"<object>{names}<scene>1</scene><nobndbox>1</nobndbox></object>"
    keys = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    return f"<object>{names}<bndbox>{''.join(f'<{k}>{v}</{k}>' for k, v in keys)}</bndbox></object>"


# In a picture 200 x 100: the two men, the first with the hats, and a third, whose box ends outside.
THINGS = (
    thing("1", "2", box=(0, 0, 90, 100)),
    thing("1", box=(101, 0, 200, 100)),
    thing("3", box=(0, 60, 210, 100)),
    thing("4"),
)


def annotate(folder, names, sentences=SENTENCES, things=THINGS, size=(200, 100)):
    for part in ("Sentences", "Annotations"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / "Sentences" / f"{name}.txt").write_text(sentences)
        shape = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
        xml = f"<annotation>{shape}{''.join(things)}</annotation>"
        (folder / "Annotations" / f"{name}.xml").write_text(xml)
    return folder


def flickr30k(raw, captions=CAPTIONS):
    (raw / "images").mkdir(parents=True)
    lines = []
    for number, split in enumerate(("train", "val", "test")):
        picture(number, (200, 100)).save(raw / "images" / f"{number}.jpg")
        (raw / f"{split}.txt").write_text(f"{number}\n")
        lines += [f"{number}.jpg#{k}\t{caption}\n" for k, caption in enumerate(captions)]
    (raw / "results_20130124.token").write_text("".join(lines))
    return raw
