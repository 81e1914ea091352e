"""What setup.cfg cannot say: the shipped worlds lie beside the package, and in a wheel inside it."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["ganinv*"]), "ganinv.pretrained"],
    package_dir={"ganinv.pretrained": "pretrained"},
)
