"""The documentation builds as a site, strictly, and has the docstring of everything that is public."""

import importlib
import inspect
import os
import subprocess
import sys

import pytest

from tests.helpers.paths import ROOT

pytest.importorskip("mkdocs", reason="the site needs mkdocs: pip install -e .[docs]")
pytest.importorskip("mkdocstrings", reason="the site needs mkdocstrings: pip install -e .[docs]")

PUBLIC = ("losses", "metrics", "models", "methods", "data", "config")  # packages with a page in docs/api


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site. A link, an anchor or a page that is missing, in docs/ or outside, fails the build."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert run.returncode == 0, run.stderr[-3000:]
    return folder


@pytest.mark.parametrize("package", PUBLIC)
def test_every_public_function_and_class_is_on_its_page(site, package):
    page = (site / "api" / package / "index.html").read_text()
    module = importlib.import_module(f"jax_itm.{package}")
    public = {name: getattr(module, name) for name in module.__all__}
    shown = {name: x for name, x in public.items() if inspect.isclass(x) or inspect.isroutine(x)}
    assert len(shown) > 5
    for name, value in shown.items():
        anchors = (f"{module.__name__}.{name}", f"{value.__module__}.{value.__qualname__}")
        assert any(f'id="{anchor}"' in page for anchor in anchors), name


def test_the_restored_run_is_on_its_page(site):
    page = (site / "api" / "matcher" / "index.html").read_text()
    for name in ("load", "Matcher", "Matcher.encode_texts", "Matcher.rank"):
        assert f'id="jax_itm.inference.matcher.{name}"' in page


def test_examples_of_docstrings_are_code(site):
    page = (site / "api" / "losses" / "index.html").read_text()
    assert page.count('<span class="gp">&gt;&gt;&gt; </span>') > 20
    assert "<blockquote>" not in page and "```" not in page


def test_links_out_of_the_documentation_lead_into_the_site(site):
    training = (site / "training" / "index.html").read_text()
    assert 'href="../benchmarks/training_steps/#memory-with-fsdp-and-remat"' in training
    assert 'href="project/CONTRIBUTING/"' in (site / "index.html").read_text()
    assert 'src="../../study.png"' in (site / "benchmarks" / "flickr8k_minilm" / "index.html").read_text()
    assert (site / "project" / "launch" / "restore.ipynb").is_file()
