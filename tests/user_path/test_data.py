"""lockstep data: import, inspect and bench, as a person uses them."""
import gzip
import json
import os
import struct
import sys

import h5py
import numpy
from PIL import Image

from util import JOB, Place, run_tests, write_data


def complains(result, codes, *words):
    assert result.returncode in codes, result
    assert result.stderr.startswith("lockstep: ") and result.stderr.count("\n") == 1, result
    for word in words:
        assert word in result.stderr, (word, result.stderr)


def write_idx(path, array):
    with (gzip.open(path, "wb") if path.endswith(".gz") else open(path, "wb")) as file:
        file.write(bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes())


def write_mnist(folder, train=50, test=20):
    random = numpy.random.default_rng(3)
    os.makedirs(folder)
    parts = {}
    for prefix, count in (("train", train), ("t10k", test)):
        parts[prefix] = (random.integers(0, 256, (count, 28, 28), dtype=numpy.uint8),
                         (numpy.arange(count) % 10).astype(numpy.uint8))
        write_idx(f"{folder}/{prefix}-images-idx3-ubyte.gz", parts[prefix][0])
        write_idx(f"{folder}/{prefix}-labels-idx1-ubyte.gz", parts[prefix][1])
    return parts


def test_import_inspect_bench():
    with Place() as place:
        parts = write_mnist(place.path("fashion"))
        result = place.run("data", "import", "fashion", "f.h5")
        assert result.returncode == 0 and "/train: 50 images" in result.stdout and not result.stderr, result
        with h5py.File(place.path("f.h5")) as file:
            assert (file["train/images"][..., 0] == parts["train"][0]).all()
            assert (file["test/labels"][:] == parts["t10k"][1]).all()
            assert abs(file["train"].attrs["mean"][0] - parts["train"][0].mean()) < 1e-3
            assert file.attrs["class_names"][9] == "Ankle boot"
        again = json.loads(place.run("data", "import", "fashion", "f.h5", "-o", "json").stdout)
        assert again["unchanged"] and again["train"] == 50, again
        shown = json.loads(place.run("data", "inspect", "f.h5", "-o", "json").stdout)
        groups = {group["name"]: group for group in shown["groups"]}
        assert groups["/train"]["usable"] and groups["/train"]["images"] == 50, groups
        assert groups["/train"]["classes"][3] == {"label": 3, "images": 5, "share": 0.1, "name": "Dress"}
        text = place.run("data", "inspect", "f.h5").stdout
        assert 'data: {train: "f.h5:/train", validation: "f.h5:/test"}' in text and "contiguous" in text, text
        bench = json.loads(place.run("data", "bench", "f.h5:/train", "--crop", "24", "--flip", "--batch", "16", "--seconds",
                                     "0.2", "-o", "json").stdout)
        assert bench["images_per_s"] > 0 and bench["bytes_per_s"] > 0 and bench["cpu_s_per_1000_images"] > 0, bench


def import_json(place, *arguments):
    result = place.run("data", "import", *arguments, "-o", "json")
    assert result.returncode == 0, result
    return json.loads(result.stdout), result.stderr


def smooth(i, height, width):
    y, x = numpy.mgrid[0:height, 0:width]
    planes = [40 + 20 * (i % 5) + 90 * y // height + 70 * x // width * (k == i % 3) for k in range(3)]
    return numpy.stack(planes, 2).astype(numpy.uint8)


def write_folder(folder, classes=("ant", "bee", "cat"), each=8, size=lambda i: (40 + i, 60)):
    """PNG and JPEG files in turn; the pixels of each by its path."""
    pixels = {}
    for c, name in enumerate(classes):
        os.makedirs(f"{folder}/{name}")
        for i in range(each):
            path = f"{folder}/{name}/{i:03}.{'png' if i % 2 else 'jpg'}"
            pixels[path] = smooth(c * each + i, *size(i))
            Image.fromarray(pixels[path]).save(path, **({} if i % 2 else {"quality": 95, "subsampling": 0}))
    return pixels


def close(a, b, tolerance):
    return numpy.abs(a.astype(int) - b.astype(int)).max() <= tolerance


def test_cifar():
    with Place() as place:
        random = numpy.random.default_rng(5)
        os.mkdir(place.path("ten"))
        os.mkdir(place.path("hundred"))
        images, labels = [], []
        for name in [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]:
            records = random.integers(0, 256, (7, 3073), dtype=numpy.uint8)
            records[:, 0] %= 10
            records.tofile(place.path("ten/" + name))
            images.append(records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
            labels.append(records[:, 0])
        with open(place.path("ten/batches.meta.txt"), "w", encoding="utf-8") as file:
            file.write("airplane\nautomobile\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n\n")
        result, _ = import_json(place, "ten", "ten.h5")
        assert (result["train"], result["test"], result["classes"], result["kind"]) == (35, 7, 10, "CIFAR-10"), result
        with h5py.File(place.path("ten.h5")) as file:
            assert (file["train/images"][:] == numpy.concatenate(images[:5])).all()
            assert (file["train/labels"][:] == numpy.concatenate(labels[:5])).all()
            assert (file["test/images"][:] == images[5]).all() and file.attrs["class_names"][8] == "ship"
        for name, count in (("train.bin", 11), ("test.bin", 4)):
            records = random.integers(0, 256, (count, 3074), dtype=numpy.uint8)
            records[:, 1] %= 100
            records.tofile(place.path("hundred/" + name))
        with open(place.path("hundred/fine_label_names.txt"), "w", encoding="utf-8") as file:
            file.write("".join(f"class {i}\n" for i in range(100)))
        result, _ = import_json(place, "hundred", "hundred.h5")
        assert (result["train"], result["test"], result["classes"]) == (11, 4, 100), result
        with h5py.File(place.path("hundred.h5")) as file:
            assert (file["test/labels"][:] == records[:, 1]).all()
            assert (file["test/images"][0] == records[0, 2:].reshape(3, 32, 32).transpose(1, 2, 0)).all()
        os.truncate(place.path("hundred/test.bin"), 4000)
        complains(place.run("data", "import", "hundred", "x.h5"), (1,), "test.bin", "3074")


def test_numpy():
    with Place() as place:
        os.mkdir(place.path("arrays"))
        random = numpy.random.default_rng(6)
        images = random.integers(0, 256, (20, 9, 8, 3), dtype=numpy.uint8)
        numpy.save(place.path("arrays/x_train.npy"), images)
        numpy.save(place.path("arrays/y_train.npy"), (numpy.arange(20) % 4).reshape(20, 1))
        numpy.save(place.path("arrays/x_test.npy"), images[:5, :, :, 0])
        numpy.save(place.path("arrays/y_test.npy"), numpy.arange(5, dtype=numpy.int8) % 4)
        complains(place.run("data", "import", "arrays", "a.h5", "--encoded"), (2,), "--encoded")
        result, _ = import_json(place, "arrays", "a.h5")
        assert (result["train"], result["test"], result["classes"]) == (20, 5, 4), result
        with h5py.File(place.path("a.h5")) as file:
            assert (file["train/images"][:] == images).all() and (file["train/labels"][:] == numpy.arange(20) % 4).all()
            assert (file["test/images"][..., 0] == images[:5, :, :, 0]).all()
        numpy.save(place.path("arrays/x_train.npy"), images.astype(numpy.float32))
        complains(place.run("data", "import", "arrays", "b.h5"), (2,), "x_train.npy", "uint8", "f4")
        numpy.save(place.path("arrays/x_train.npy"), numpy.asfortranarray(images))
        complains(place.run("data", "import", "arrays", "b.h5"), (2,), "x_train.npy", "Fortran")
        numpy.save(place.path("arrays/x_train.npy"), images[:19])
        complains(place.run("data", "import", "arrays", "b.h5"), (2,), "19 images", "20 labels")
        numpy.save(place.path("arrays/x_train.npy"), images)
        os.truncate(place.path("arrays/x_train.npy"), 3000)
        complains(place.run("data", "import", "arrays", "b.h5"), (1,), "x_train.npy", "cut short")
        assert not os.path.exists(place.path("b.h5")) and not os.path.exists(place.path("b.h5.part"))


def test_image_folder():
    with Place() as place:
        pixels = write_folder(place.path("animals"))
        complains(place.run("data", "import", "animals", "x.h5"), (2,), "--resize")
        result, _ = import_json(place, "animals", "a.h5", "--resize", "32", "--crop", "24", "--validation", "0.25")
        assert (result["train"], result["validation"], result["classes"]) == (18, 6, 3), result
        # What is stored is what the Python Imaging Library makes of each file; JPEG decoders may differ a little.
        expected = []
        for path, original in pixels.items():
            with Image.open(path) as image:
                height, width = original.shape[:2]
                scale = 32 / min(height, width)
                resized = image.resize((int(width * scale + 0.5), int(height * scale + 0.5)), Image.BILINEAR)
                left, top = (resized.width - 24) // 2, (resized.height - 24) // 2
                expected.append((path.split("/")[-2], numpy.asarray(resized.crop((left, top, left + 24, top + 24)))))
        with h5py.File(place.path("a.h5")) as file:
            names = list(file.attrs["class_names"])
            assert names == ["ant", "bee", "cat"], names
            stored = [(names[label], image) for group in ("train", "validation")
                      for image, label in zip(file[group]["images"], file[group]["labels"])]
            order = list(file["train/labels"])
        assert order != sorted(order), "sorted by class"
        for name, image in stored:
            near = [i for i, (other, e) in enumerate(expected) if other == name and close(image, e, 3)]
            assert near, name
            del expected[near[0]]
        assert not expected
        # The same bytes with any number of threads.
        import_json(place, "animals", "b.h5", "--resize", "32", "--crop", "24", "--validation", "0.25", "--threads", "7")
        with h5py.File(place.path("a.h5")) as a, h5py.File(place.path("b.h5")) as b:
            assert (a["train/images"][:] == b["train/images"][:]).all()
        grey, _ = import_json(place, "animals", "g.h5", "--crop", "40", "--grey")
        assert grey["channels"] == 1 and grey["height"] == 40, grey


def test_split_folder_and_damaged():
    with Place() as place:
        for part, each in (("train", 6), ("val", 4), ("test", 2)):
            write_folder(place.path("split/" + part), each=each, size=lambda i: (30, 30))
        with open(place.path("split/train/bee/bad.jpg"), "wb") as file:
            file.write(b"no image at all")
        with open(place.path("split/train/ant/002.jpg"), "rb+") as file:
            file.truncate(300)
        complains(place.run("data", "import", "split", "s.h5"), (1,), "split/train/")
        assert not os.path.exists(place.path("s.h5"))
        result, said = import_json(place, "split", "s.h5", "--skip-damaged")
        assert (result["train"], result["validation"], result["test"], result["skipped"]) == (17, 12, 6, 2), result
        assert said.count("skipped:") == 2 and "bad.jpg" in said and "ant/002.jpg" in said, said
        with h5py.File(place.path("s.h5")) as file:
            assert file["train/images"].shape == (17, 30, 30, 3)
            assert sorted(file["train/labels"]) == [0] * 5 + [1] * 6 + [2] * 6, sorted(file["train/labels"])
            assert file["train/images"].id.get_offset() % 4096 == 0
        os.rename(place.path("split/val/cat"), place.path("split/val/cow"))
        complains(place.run("data", "import", "split", "x.h5", "--skip-damaged"), (2,), "split/val/cow")


def test_list():
    with Place() as place:
        write_folder(place.path("files of mine"), size=lambda i: (20, 20))
        lines = [f"files of mine/{name}/{i:03}.{'png' if i % 2 else 'jpg'} {label}"
                 for label, name in enumerate(("cat", "ant")) for i in range(4)]
        place.write("list.txt", "\n".join(lines) + "\n")
        place.write("names.txt", "katze\nameise\n")
        result, _ = import_json(place, "list.txt", "l.h5", "--class-names", "names.txt")
        assert (result["train"], result["classes"], result["kind"]) == (8, 2, "image list"), result
        with h5py.File(place.path("l.h5")) as file:
            assert list(file["train/labels"]) == [0] * 4 + [1] * 4 and list(file.attrs["class_names"]) == ["katze", "ameise"]
            with Image.open(place.path("files of mine/ant/001.png")) as image:
                assert (file["train/images"][5] == numpy.asarray(image)).all()
        place.write("list.txt", "\n".join(lines) + "\nfiles of mine/cat/001.png -3\n")
        complains(place.run("data", "import", "list.txt", "x.h5"), (2,), "list.txt', line 9", "-3")
        place.write("list.txt", "\n".join(lines) + "\nnowhere.png 1\n")
        complains(place.run("data", "import", "list.txt", "x.h5"), (4,), "nowhere.png")
        result, said = import_json(place, "list.txt", "x.h5", "--skip-damaged")
        assert result["skipped"] == 1 and "nowhere.png" in said, (result, said)
        place.write("names.txt", "katze\n")
        place.write("list.txt", "\n".join(lines))
        complains(place.run("data", "import", "list.txt", "y.h5", "--class-names", "names.txt"), (2,),
                  "1 class names")


def test_encoded():
    with Place() as place:
        write_folder(place.path("animals"))
        result, _ = import_json(place, "animals", "e.h5", "--encoded", "--validation", "0.5")
        assert result["encoded"] and (result["train"], result["validation"]) == (12, 12), result
        files = sorted(open(os.path.join(d, n), "rb").read() for d, _, names in os.walk(place.path("animals")) for n in names)
        with h5py.File(place.path("e.h5")) as file:
            stored = []
            for group in (file["train"], file["validation"]):
                ends = group["offsets"][:]
                stored += [group["encoded"][ends[i]:ends[i + 1]].tobytes() for i in range(len(ends) - 1)]
        assert sorted(stored) == files
        shown = place.run("data", "inspect", "e.h5").stdout
        assert "12 encoded images of 40x60" in shown, shown
        bench = json.loads(place.run("data", "bench", "e.h5:/train", "--crop", "32", "--batch", "8", "--seconds", "0.2",
                                     "-o", "json").stdout)
        assert bench["decode_s"] > 0, bench
        complains(place.run("data", "import", "animals", "x.h5", "--encoded", "--resize", "32"), (2,), "--encoded")


def test_contact_sheet():
    with Place() as place:
        write_folder(place.path("animals"), size=lambda i: (40 + i, 300))
        import_json(place, "animals", "e.h5", "--encoded")
        write_data(place.path("tiny.h5"))
        place.write("job.yaml", JOB + "augment: [random_crop: {pad: 4}, cutout: {size: 8}]\n")
        for arguments in (("e.h5", "stored.png"), ("tiny.h5:/test", "test.png"), ("tiny.h5", "job.png", "--job", "job.yaml")):
            result = place.run("data", "inspect", *arguments, "--sample", "10")
            assert result.returncode == 0 and not result.stdout and arguments[1] in result.stderr, result
            with Image.open(place.path(arguments[1])) as image:
                pixels = numpy.asarray(image)
            assert pixels.shape[0] > 200 and pixels.shape[1] > 400 and pixels.std() > 10, (arguments, pixels.shape)
        complains(place.run("data", "inspect", "tiny.h5", "--sample", "10"), (2,), "PNG")
        complains(place.run("data", "inspect", "tiny.h5", "x.png"), (2,), "--sample")
        complains(place.run("data", "inspect", "tiny.h5", "nowhere/x.png", "--sample", "4"), (1,), "nowhere/x.png")
        assert not os.path.exists(place.path("x.png"))


def test_wrong():
    with Place() as place:
        complains(place.run("data", "import", "nothing", "x.h5"), (4,), "nothing")
        os.mkdir(place.path("empty"))
        complains(place.run("data", "import", "empty", "x.h5"), (2,), "empty", "IDX")
        complains(place.run("data", "inspect", "nothing.h5"), (4,), "nothing.h5")
        write_data(place.path("d.h5"))
        complains(place.run("data", "inspect", "d.h5:/trian"), (4,), "/trian")
        complains(place.run("data", "bench", "d.h5:/train", "--crop", "29"), (2,), "29x29", "28x28")
        complains(place.run("data", "bench", "d.h5"), (4,), "images")
        assert not os.path.exists(place.path("x.h5"))


def test_inspect_anything():
    """Files that no job can use are shown too, with the reason."""
    with Place() as place:
        with h5py.File(place.path("any.h5"), "w") as file:
            file["a/b/c"] = numpy.zeros((3, 4), numpy.float32)
            file.create_dataset("packed/images", (4, 2, 2, 1), "u1", chunks=(1, 2, 2, 1), compression="gzip")
            file["packed/link"] = h5py.ExternalLink("other.h5", "/x")
            file["text"] = "hello"
        shown = json.loads(place.run("data", "inspect", "any.h5", "-o", "json").stdout)
        groups = {group["name"]: group for group in shown["groups"]}
        assert not groups["/a/b"]["usable"] and groups["/a/b"]["datasets"][0]["type"] == "float32", groups
        storage = {d["name"]: d["storage"] for d in groups["/packed"]["datasets"]}
        assert storage["images"].startswith("chunked 1x2x2x1, deflate") and "another file" in storage["link"], storage


if __name__ == "__main__":
    run_tests(sys.modules["__main__"])
