"""One module a data set; `DATASETS` is what the commands offer."""

from data_prep.dataset import Dataset
from data_prep.datasets.dior_r import DiorR
from data_prep.datasets.dota import Dota
from data_prep.datasets.image_folder import ImageFolder
from data_prep.datasets.loveda import LoveDa
from data_prep.datasets.millionaid import MillionAid
from data_prep.datasets.potsdam import Potsdam
from data_prep.datasets.synthetic import Synthetic

DATASETS: dict[str, type[Dataset]] = {
    kind.name: kind for kind in (MillionAid, Dota, DiorR, Potsdam, LoveDa, ImageFolder, Synthetic)
}
