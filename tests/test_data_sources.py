import io
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rsfm_jax.data.decode import BadImage, decode_rgb
from rsfm_jax.data.sources import open_source
from rsfm_jax.data.synthetic import SCENE_KINDS, draw_scene
from rsfm_jax.errors import UserError

REAL = Path(__file__).parents[2] / "shared/data/real/scenes"


def write_images(folder: Path, *files: str) -> Path:
    """One small image a file, the file's number as its grey level."""
    for number, file in enumerate(files):
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), (number,) * 3).save(path)
    return folder


@pytest.fixture(scope="module")
def tfds_folder(tmp_path_factory) -> Path:
    """A data set written by TFDS itself: eight 8 x 8 images, half with label 1."""
    import tensorflow_datasets as tfds
    from etils import epath

    folder = tmp_path_factory.mktemp("tfds")

    class Tiny(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        pkg_dir_path = epath.Path(__file__).parent

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.ClassLabel(names=["field", "town"]),
                "author": tfds.features.Text(),
            }
            return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(8), "validation": self._generate_examples(4)}

        def _generate_examples(self, count):
            for number in range(count):
                image = io.BytesIO()  # encoded: TFDS itself encodes arrays with TensorFlow
                Image.new("RGB", (8, 8), (10 * number,) * 3).save(image, "PNG")
                yield number, {"image": image.getvalue(), "label": number % 2, "author": "nobody"}

    Tiny(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


def test_folder_with_classes(tmp_path):
    write_images(tmp_path, "town/b.png", "field/Z.PNG", "field/a/deep.jpg", "town/a.tif")
    (tmp_path / "town/notes.txt").write_text("no image")
    write_images(tmp_path, ".thumbnails/x.png", "town/._b.png")
    source = open_source(str(tmp_path))
    assert source.class_names == ("field", "town")
    names = [Path(source.name(i)).relative_to(tmp_path).as_posix() for i in range(len(source))]
    assert names == ["field/Z.PNG", "field/a/deep.jpg", "town/a.tif", "town/b.png"]
    assert [source[i]["label"] for i in range(4)] == source.labels.tolist() == [0, 0, 1, 1]
    assert source[3]["image"] == (tmp_path / "town/b.png").read_bytes()


@pytest.mark.parametrize(
    "files", [("a.png", "b.png"), ("all/a.png", "all/b.png"), ("x/a.png", "b.png")]
)
def test_folder_without_classes(tmp_path, files):
    source = open_source(str(write_images(tmp_path, *files)))
    assert source.class_names == () and source.labels is None and len(source) == 2
    assert source[0].keys() == {"image"}


def test_folder_with_splits(tmp_path):
    write_images(tmp_path, "train/x/0.png", "train/y/1.png", "test/x/2.png", "test/y/3.png")
    assert len(open_source(str(tmp_path))) == 2
    test = open_source(str(tmp_path), "test")
    assert test.class_names == ("x", "y") and test.name(1).endswith("test/y/3.png")
    with pytest.raises(UserError, match="no split 'val', it has: test, train"):
        open_source(str(tmp_path), "val")


def test_class_called_train_is_no_split(tmp_path):
    write_images(tmp_path, "train/0.png", "harbour/1.png")
    assert open_source(str(tmp_path)).class_names == ("harbour", "train")


def test_folder_mistakes_are_told_in_one_line(tmp_path):
    with pytest.raises(UserError, match="missing' does not exist: give a folder of images"):
        open_source(str(tmp_path / "missing"))
    with pytest.raises(UserError, match=r"no images in .*: looked for .*\.jpg .*\.tif"):
        open_source(str(tmp_path))
    write_images(tmp_path, "a.png")
    with pytest.raises(UserError, match="is a file"):
        open_source(str(tmp_path / "a.png"))
    with pytest.raises(UserError, match="no split 'val', it is one split, train"):
        open_source(str(tmp_path), "val")


@pytest.mark.parametrize("below", ["", "tiny", "tiny/1.0.0"])
def test_tfds_directory(tfds_folder, below):
    source = open_source(str(tfds_folder / below), "validation")
    assert source.class_names == ("field", "town") and len(source) == 4
    seen = {int(decode_rgb(source[i]["image"])[0, 0, 0]): source[i]["label"] for i in range(4)}
    assert seen == {0: 0, 10: 1, 20: 0, 30: 1}
    assert source.labels.tolist() == [source[i]["label"] for i in range(4)]
    assert source[0].keys() >= {"image", "label"}
    assert source.name(2) == f"record 2 in validation of {tfds_folder}/tiny/1.0.0"


def test_tfds_slices_and_mistakes(tfds_folder, tmp_path):
    assert len(open_source(str(tfds_folder), "train[:25%]")) == 2
    with pytest.raises(UserError, match="no split 'test', it has: train, validation"):
        open_source(str(tfds_folder), "test")
    (tmp_path / "dataset_info.json").write_text("{")
    with pytest.raises(UserError, match="cannot be opened, prepare it again"):
        open_source(str(tmp_path))
    for version in ("1.0.0", "1.0.1"):
        (tmp_path / "two/dota/multi" / version).mkdir(parents=True)
        (tmp_path / "two/dota/multi" / version / "dataset_info.json").write_text("{}")
    for folder in ("two", "two/dota", "two/dota/multi"):
        with pytest.raises(UserError, match=r"several prepared data sets, name one of: .*1\.0\.1"):
            open_source(str(tmp_path / folder))


def test_damaged_record_files_are_bad_examples(tfds_folder, tmp_path):
    (tmp_path / "1.0.0").mkdir()
    for file in (tfds_folder / "tiny/1.0.0").iterdir():
        keep = None if file.suffix == ".json" else 1000
        (tmp_path / "1.0.0" / file.name).write_bytes(file.read_bytes()[:keep])
    source = open_source(str(tmp_path))
    with pytest.raises(BadImage, match="unreadable record"):
        source[0]
    assert source.labels.tolist() == [-1] * 8


def test_reading_imports_no_tensorflow(tfds_folder):
    code = (
        "import sys; from rsfm_jax.data.sources import open_source\n"
        f"open_source({str(tfds_folder)!r})[0]; assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_synthetic():
    source = open_source("synthetic:20")
    kinds = len(SCENE_KINDS)
    assert source.class_names == SCENE_KINDS and len(source) == 20
    assert len(open_source("synthetic")) == 10_000
    example = source[kinds + 3]
    assert example["label"] == 3 == source.labels[kinds + 3]
    drawn = draw_scene(kinds + 3, example["image"].shape[0], SCENE_KINDS[3]).image
    for _ in range(2):  # drawn, then kept
        np.testing.assert_array_equal(source[kinds + 3]["image"], drawn)
    test = open_source("synthetic:20", "test")
    assert not any(np.array_equal(test[3]["image"], source[i]["image"]) for i in range(20))
    for wrong in ("synthetic:", "synthetic:0", "synthetic:many", "synthetic:-3"):
        with pytest.raises(UserError, match="write synthetic:N"):
            open_source(wrong)
    with pytest.raises(UserError, match="no split 'x', they have: train, val, test"):
        open_source("synthetic", "x")
    airports = open_source("synthetic:3:airport")
    assert {SCENE_KINDS[label] for label in airports.labels} == {"airport"}
    same = draw_scene(2, example["image"].shape[0], "airport").image
    np.testing.assert_array_equal(airports[2]["image"], same)
    assert airports.fingerprint != open_source("synthetic:3").fingerprint
    with pytest.raises(UserError, match="no kind 'moon', there are: farmland"):
        open_source("synthetic:3:moon")


def test_sources_pickle(tfds_folder, tmp_path):
    folder = write_images(tmp_path, "x/0.png", "y/1.png")
    for name in (str(tfds_folder), str(folder), "synthetic:8"):
        source = open_source(name)
        copy = pickle.loads(pickle.dumps(source))
        assert copy.name(1) == source.name(1) and len(copy) == len(source)
        np.testing.assert_array_equal(copy[1]["image"], source[1]["image"])


def test_real_scene_folder():
    if not REAL.is_dir():
        pytest.skip(f"no real sample data at {REAL}")
    source = open_source(str(REAL / "aid"))
    assert len(source) == 2100 and len(source.class_names) == 30
    assert np.bincount(source.labels).tolist() == [70] * 30


def test_a_missing_record_file_is_named(tfds_folder, tmp_path):
    copy = shutil.copytree(tfds_folder, tmp_path / "copy")
    next(copy.glob("tiny/1.0.0/*train*array_record*")).unlink()
    with pytest.raises(UserError, match=r"tiny-train\S* is missing, one of 1 of the 1 files"):
        open_source(str(copy), "train[:50%]")
    assert len(open_source(str(copy), "validation")) == 4
