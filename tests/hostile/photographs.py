"""Photographs: formats, modes, depth, orientation, the field of view in other surroundings, pictures of no eye, and copies."""
import functools
import io
import zlib

import cv2
import numpy as np
from PIL import Image

from hostile import Case, Either, Says
from retinalogos.data.dataset import build_dataset, load_notes, load_records, load_rejects
from retinalogos.data.images import field_of_view, read_photograph, read_square
from retinalogos.data.simulate import simulate_patient
from retinalogos.data.sources import FolderSource

SIDE, HEIGHT, WIDTH, LEFT, TOP = 384, 480, 720, 168, 48
WHOLE = (LEFT, TOP, LEFT + SIDE, TOP + SIDE)


@functools.cache
def eye(seed=29, number=0) -> np.ndarray:
    """A simulated retina, round, as large as the picture."""
    return simulate_patient(seed, render_size=SIDE, cameras="one")[number].image


def place(retina, back=0) -> np.ndarray:
    """The retina in a picture of 720 x 480 pixels with `back` around it."""
    picture = np.full((HEIGHT, WIDTH, 3), back, np.uint8)
    inside = retina.max(2, keepdims=True) > 0
    picture[TOP:TOP + SIDE, LEFT:LEFT + SIDE] = np.where(inside, retina, np.asarray(back, np.uint8))
    return picture


def encoded(image, **options) -> bytes:
    """Bytes of an image as Pillow writes it (PNG unless `format` is given)."""
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, **{"format": "PNG"} | options)
    return file.getvalue()


def near(image, expected, most=12.0) -> bool:
    """Whether two pictures [H, W, 3] of one size differ by less than `most` grey levels on average."""
    return image.shape == expected.shape and np.abs(image.astype(int) - expected.astype(int)).mean() < most


def look(folder, data: bytes, name="a.png"):
    (folder / name).write_bytes(data)
    return read_photograph(folder / name)


def grey(image):
    return np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)


def deep(image, bits=16):
    """16-bit PNG of RGB."""
    return cv2.imencode(".png", (image[..., ::-1].astype(np.uint16) << (bits - 8)))[1].tobytes()


def flat_png(side, depth=16, colour=2) -> bytes:
    """A PNG of side x side zeros, small on disk."""
    def chunk(kind, body):
        return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")
    packer, row = zlib.compressobj(1), b"\0" + b"\x80" * (side * {0: 1, 2: 3, 4: 2, 6: 4}[colour] * depth // 8)
    body = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", side.to_bytes(4, "big") * 2 + bytes([depth, colour, 0, 0, 0])) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def modes():
    """Every mode and format shows the same eye; what cannot is refused in one line."""
    picture, image = place(eye()), Image.fromarray(place(eye()))
    for mode in ("RGB", "RGBA", "P", "L", "LA", "CMYK", "YCbCr"):
        for kind in ("PNG", "TIFF", "JPEG", "WEBP", "BMP", "GIF"):
            try:
                data = encoded(image.convert(mode), format=kind)
            except (OSError, ValueError):
                continue
            want = grey(picture) if mode in ("L", "LA") else picture
            yield f"{mode} as {kind}", data, lambda got, want=want, mode=mode, kind=kind: near(got, want, 20 if mode == "P" or kind == "GIF" else 8)
    yield "16 bits, RGB", deep(picture), lambda got: near(got, picture, 3)
    yield "12 bits in 16, RGB", deep(picture, 12), lambda got: near(got, picture, 3)
    yield "16 bits, grey", encoded(Image.fromarray((grey(picture)[..., 0].astype(np.uint16) << 8))), lambda got: near(got, grey(picture), 3)
    for kind, values in {"I": grey(picture)[..., 0].astype(np.int32) * 256, "F": grey(picture)[..., 0].astype(np.float32) / 255, "F in 0..255": grey(picture)[..., 0].astype(np.float32)}.items():
        yield f"mode {kind} as TIFF", encoded(Image.fromarray(values), format="TIFF"), Either((lambda got: near(got, grey(picture), 8), Says("")))
    yield "F with NaN as TIFF", encoded(Image.fromarray(np.full((200, 200), np.nan, np.float32)), format="TIFF"), Either((Says(""), lambda got: got.max() == 0))
    for name, data in {"one bit": encoded(image.convert("1")), "JPEG 2000": encoded(image, format="JPEG2000"), "ICO": encoded(image.resize((200, 200)), format="ICO"), "TGA": encoded(image, format="TGA")}.items():
        yield name, data, Either((Says(""), lambda got: got.shape == picture.shape))
    for name, data in {"9,990 x 9,990 of 16 bits": flat_png(9990), "the same with alpha": flat_png(9990, 16, 6), "the same in grey": flat_png(9990, 16, 0), "9,990 x 9,990 of 8 bits": flat_png(9990, 8)}.items():
        yield name, data, Either((Says(""), lambda got: got.shape == (9990, 9990, 3)))


def turned():
    """EXIF says how the camera was held: the picture is upright whatever the format."""
    image = Image.fromarray(place(eye()))
    back = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Image.Transpose that the camera's orientation undoes
    for value, undo in back.items():
        for kind in ("JPEG", "PNG", "TIFF", "WEBP"):
            exif = Image.Exif()
            exif[0x0112] = value
            stored = image if undo is None else image.transpose(undo)
            yield f"orientation {value} as {kind}", encoded(stored, format=kind, exif=exif), lambda got: near(got, np.asarray(image), 8)
    for value in (0, 9, 65535):
        exif = Image.Exif()
        exif[0x0112] = value
        yield f"orientation {value}", encoded(image, format="JPEG", exif=exif), lambda got: near(got, np.asarray(image), 8)
    yield "EXIF of garbage", encoded(image, format="JPEG", exif=b"Exif\0\0" + bytes(range(256))), lambda got: near(got, np.asarray(image), 8)


def lit(share):
    return (eye() * np.broadcast_to(share, (SIDE, SIDE))[..., None]).astype(np.uint8)


def surroundings(rng):
    """(name, picture): the same round retina at `WHOLE` in shade, beside panels, under banners, in frames, on other grounds."""
    y, x = np.mgrid[:SIDE, :SIDE] / (SIDE - 1) - 0.5
    for degrees in range(0, 360, 45):
        along = x * np.cos(np.radians(degrees)) + y * np.sin(np.radians(degrees))
        yield f"shade from {degrees} degrees", place(lit(np.clip(0.55 + 0.95 * along, 0.08, 1)))
    for least in (0.12, 0.2):
        yield f"dark rim, {least}", place(lit(np.where(np.hypot(x, y) > 0.38, least, 1)))
    for level in (235, 255, 128, 60):
        yield f"on a ground of {level}", place(eye(), level)
    yield "on blue", place(eye(), (20, 40, 200))
    for name, part in {"left": np.s_[:, :120], "right": np.s_[:, -120:], "above": np.s_[:40], "below": np.s_[-40:]}.items():
        for level in (235, 90):
            picture = place(eye())
            picture[part] = level
            yield f"panel of {level} {name}", picture
    for k in range(4):
        text = "".join(rng.choice("ABCDEFGH 0123456789") for _ in range(rng.randint(6, 20)))
        at = (rng.choice((5, 300)), rng.choice((25, HEIGHT - 10)))
        yield f"words {text!r} at {at}", cv2.putText(place(eye()), text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.8, (255, 255, 255), 2)
    for level in (255, 128):
        yield f"frame of {level}", cv2.rectangle(place(eye()), (3, 3), (WIDTH - 4, HEIGHT - 4), (level,) * 3, 4)
    yield "a caliper beside it", cv2.line(place(eye()), (30, 60), (30, 420), (255, 255, 255), 3)
    noisy = place(eye()).astype(int) + np.random.default_rng(rng.randrange(2**32)).integers(0, 14, (HEIGHT, WIDTH, 3))
    yield "a noisy ground", np.clip(noisy, 0, 255).astype(np.uint8)
    yield "very dark", (place(eye()) // 5)
    yield "very bright", np.where(place(eye()) > 0, np.clip(place(eye()).astype(int) + 90, 0, 255), 0).astype(np.uint8)


def overlap(box, expected=WHOLE) -> float:
    """Intersection over union of two boxes."""
    l, t, r, b = (max(box[0], expected[0]), max(box[1], expected[1]), min(box[2], expected[2]), min(box[3], expected[3]))
    both = max(0, r - l) * max(0, b - t)
    area = lambda one: (one[2] - one[0]) * (one[3] - one[1])
    return both / (area(box) + area(expected) - both)


def small_ones():
    """(share of the frame, picture, box) of small retinas off the middle."""
    for side, at in ((300, (60, 100)), (200, (300, 700)), (130, (40, 20)), (100, (500, 900))):
        picture = np.zeros((800, 1200, 3), np.uint8)
        picture[at[0]:at[0] + side, at[1]:at[1] + side] = cv2.resize(eye(), (side, side), interpolation=cv2.INTER_AREA)
        yield side, picture, (at[1], at[0], at[1] + side, at[0] + side)


def no_eyes(rng):
    """(name, picture) that show no retina."""
    draw, (y, x) = np.random.default_rng(rng.randrange(2**32)), np.mgrid[:HEIGHT, :WIDTH]
    page = np.full((HEIGHT, WIDTH, 3), 250, np.uint8)
    for line in range(12):
        cv2.putText(page, "the patient was seen on Monday", (20, 40 + 35 * line), cv2.FONT_HERSHEY_SIMPLEX, 1, (0, 0, 0), 2)
    yield "a page of text", page
    yield "the page inverted", 255 - page
    yield "noise", draw.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    yield "coarse noise", cv2.resize(draw.integers(0, 256, (12, 18, 3), np.uint8), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    yield "one colour", np.full((HEIGHT, WIDTH, 3), (180, 80, 40), np.uint8)
    yield "white", np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    yield "nearly black", draw.integers(0, 8, (HEIGHT, WIDTH, 3), np.uint8)
    yield "a gradient", np.repeat((x * 255 // WIDTH).astype(np.uint8)[..., None], 3, axis=2)
    yield "a chessboard", np.repeat((((x // 60 + y // 60) % 2) * 255).astype(np.uint8)[..., None], 3, axis=2)
    yield "stripes as of a section (OCT)", np.repeat((np.exp(-((y - 240 - 20 * np.sin(x / 60)) / 25.0) ** 2) * 220).astype(np.uint8)[..., None], 3, axis=2)
    yield "two eyes beside each other", np.concatenate([cv2.resize(place(eye()), (360, 480))[:, :360], cv2.resize(place(eye(31)), (360, 480))], axis=1)
    yield "four eyes", np.tile(cv2.resize(place(eye()), (360, 240)), (2, 2, 1))
    yield "a rectangle of colour", cv2.rectangle(np.zeros((HEIGHT, WIDTH, 3), np.uint8), (100, 100), (620, 400), (200, 90, 40), -1)
    yield "a triangle", cv2.fillPoly(np.zeros((HEIGHT, WIDTH, 3), np.uint8), [np.array([[360, 20], [60, 460], [660, 460]])], (200, 90, 40))
    yield "a plain disc", cv2.circle(np.zeros((HEIGHT, WIDTH, 3), np.uint8), (360, 240), 190, (200, 90, 40), -1)
    yield "a half retina", np.where((x < 360)[..., None], place(eye()), 0).astype(np.uint8)


def data_of(folder, pictures: dict, eyes=None):
    """The data set of such photographs by name, with `eyes` by name; its records, rejects, notes and groups."""
    (folder / "set/images").mkdir(parents=True)
    for name, picture in pictures.items():
        (folder / "set/images" / name).write_bytes(picture if isinstance(picture, bytes) else encoded(picture))
    rows = "".join(f"{name},{(eyes or {}).get(name, '')},p{k}\n" for k, name in enumerate(pictures))
    (folder / "set/labels.csv").write_text("image,eye,patient\n" + rows)
    source = FolderSource(folder / "set", columns={"eye": "eye", "patient": "patient"})
    counts = build_dataset(folder / "out", source, low_resolution=64, high_resolution=128, seed=0, val_fraction=0.0, test_fraction=0.0)
    records = load_records(folder / "out").set_index("file")
    return counts, records, load_rejects(folder / "out").set_index("file"), load_notes(folder / "out").set_index("image_id")


def told_of(folder, picture) -> str:
    """What becomes of a picture beside a good photograph: rejected, noted, doubtful (a low score of quality), or kept."""
    counts, records, rejects, notes = data_of(folder, {"good.png": place(eye(41)), "odd.png": picture})
    if any("odd.png" in file for file in rejects.index):
        return "rejected"
    row = records[["odd.png" in file for file in records.index]].iloc[0]
    return "noted" if row.image_id in notes.index else "doubtful" if row.quality_score < 0.1 else "kept"


def turn(image, degrees):
    return cv2.warpAffine(image, cv2.getRotationMatrix2D((SIDE / 2, SIDE / 2), degrees, 1), (SIDE, SIDE))


def crop(image, share):
    cut = round(share * SIDE)
    return cv2.resize(image[cut:SIDE - cut, cut:SIDE - cut], (SIDE, SIDE))


COPIES = {"mirrored": lambda i: i[:, ::-1], "upside down": lambda i: i[::-1], "turned 90": lambda i: np.rot90(i), "turned 180": lambda i: np.rot90(i, 2), "turned 270": lambda i: np.rot90(i, 3), "transposed": lambda i: i.transpose(1, 0, 2),
          "turned 3": lambda i: turn(i, 3), "turned -5": lambda i: turn(i, -5), "turned 10": lambda i: turn(i, 10), "cropped 3 %": lambda i: crop(i, 0.03), "cropped 5 %": lambda i: crop(i, 0.05),
          "cropped and mirrored": lambda i: crop(i, 0.04)[:, ::-1], "half the size": lambda i: cv2.resize(i, (SIDE // 2,) * 2, interpolation=cv2.INTER_AREA), "brighter": lambda i: np.clip(i * 1.3, 0, 255).astype(np.uint8),
          "blurred": lambda i: cv2.GaussianBlur(i, (0, 0), 1.2), "another white balance": lambda i: np.clip(i * (0.9, 1.0, 1.15), 0, 255).astype(np.uint8)}


def groups(folder, seed, change, sides=("OD", "OD")):
    """Groups that the splits keep together, of five eyes and a changed copy of the first; and whether something is noted."""
    others = {f"o{k}.png": place(eye(seed + k + 1)) for k in range(4)}
    copied = np.ascontiguousarray(change(eye(seed)))
    pictures = {"a.png": place(eye(seed)), "copy.png": place(copied if len(copied) == SIDE else cv2.resize(copied, (SIDE, SIDE)))} | others
    counts, _, _, notes = data_of(folder, pictures, dict(zip(pictures, sides)))
    return counts["groups"], len(notes) > 0


def cases(rng):
    for page in (modes, turned):
        for name, data, want in page():
            yield Case(f"{page.__name__}: {name}", lambda folder, data=data: look(folder, data), want)
    for name, picture in surroundings(rng):
        yield Case(f"field of view: {name}", lambda folder, picture=picture: overlap(field_of_view(picture)), lambda v: v > 0.9)
    for side, picture, box in small_ones():
        yield Case(f"field of view: {side} pixels of 1,200 x 800", lambda folder, p=picture, b=box: overlap(field_of_view(p), b), lambda v: v > 0.85)
    for name, picture in no_eyes(rng):
        yield Case(f"no eye: {name}", lambda folder, picture=picture: told_of(folder, picture), lambda v: v != "kept")
    for name, change in COPIES.items():
        seed = rng.randrange(100, 900)
        yield Case(f"copy: {name}", lambda folder, seed=seed, change=change: groups(folder, seed, change)[0], 5)
    for k in range(4):
        seed = rng.randrange(100, 900)
        yield Case(f"another eye, {k}", lambda folder, seed=seed: groups(folder, seed, lambda image, seed=seed: eye(seed + 77))[0], 6)
        yield Case(f"a mirrored copy with the other eye, {k}", lambda folder, seed=seed: groups(folder, seed, COPIES["mirrored"], ("OD", "OS")), (5, True))
    for share in (2, 20, 60, 95):
        data = encoded(place(eye()), format="JPEG")
        yield Case(f"JPEG cut at {share} %", lambda folder, data=data, share=share: read_square((folder / "a.jpg", (folder / "a.jpg").write_bytes(data[:len(data) * share // 100]))[0], 64).shape[2], Either((Says(""), 3)))
