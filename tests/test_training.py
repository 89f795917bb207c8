"""How the default model is made: documents, packs, the packed twin, and that it learns to read."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reportlab
import torch
from PIL import Image
from tokenizers import Tokenizer

from loaders import transformers_model
from loaders.families import FAMILIES
from loaders.vlm_loader import VLMConfig
from pagemill import answers
from training import blocks, diagrams, documents, figures, maps, naming, plots, scripts, sheets
from training.characters import CHARACTERS, indices, keep
from training.checkpoint import load_checkpoint
from training.curriculum import KINDS as PACKED
from training.curriculum import stage
from training.documents import CELL, World, make
from training.export import export, meet, read, special_ids, to_checkpoint
from training.glyphs import Library
from training.items import Item, Maker, window_order
from training.kinds import KINDS
from training.model import TINY, PageReader
from training.nf4 import nf4, rounded, ways
from training.optimizer import Optimizer
from training.packing import Packer, PackSize
from training.page import Box, Page
from training.pictures import Pictures
from training.style import Style
from training.turns import FEWEST_LETTERS, turned
from training.words import Speaker, Texts

pytestmark = pytest.mark.usefixtures("one_thread")
PROJECT = Path(__file__).resolve().parents[1]
MODEL = PROJECT / "models" / "pagereader-19m"
LINES = (
    "Invoice 4711",
    "Zürich, 3 May",
    "no cats",
    "12,50 €",
    "Total",
    "Page 9 of 9",
    "être",
    "x = y + 1",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's own documentation in reportlab's free faces, without pictures."""
    data = tmp_path_factory.mktemp("data")
    (data / "text").mkdir()
    paragraphs = [keep(line) for line in (PROJECT / "DESIGN.md").read_text().splitlines()]
    (data / "text" / "en.txt").write_text("\n".join(p for p in paragraphs if len(p) > 40))
    (data / "fonts" / "text").mkdir(parents=True)
    faces = Path(reportlab.__file__).parent / "fonts"
    for name, style in (("Vera", "r"), ("VeraBd", "b"), ("VeraIt", "i")):
        shutil.copy(faces / f"{name}.ttf", data / "fonts" / "text" / f"Vera__{style}.ttf")
    return data


@pytest.fixture(scope="module")
def world(data: Path) -> World:
    made = World(Texts(data / "text"), Library(data / "fonts"), Pictures(data / "pictures"))
    blocks.PICTURES[:] = [made.pictures]
    return made


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return Tokenizer.from_file(str(MODEL / "tokenizer.json"))


def test_what_cannot_be_drawn_is_left_out() -> None:
    assert keep("a\u4e00b\n c\u00a0d") == "ab c d"
    assert [CHARACTERS[place] for place in indices("é€")] == ["é", "€"]


@pytest.mark.parametrize("kind", ["line", "part", "page", "picture", "blank"])
def test_a_document_is_a_picture_its_text_and_where_it_stands(world: World, kind: str) -> None:
    for seed in range(12):
        sample = make(random.Random(seed), world, kind)
        rows, columns = sample.image.shape
        assert rows % CELL == columns % CELL == 0
        assert len(sample.text) == len(sample.xs) == len(sample.ys)
        assert re.match(r"(This page is turned by (90|180|270) degrees.* )?An? ", sample.caption)
        if sample.text.startswith("This page is turned"):
            continue
        known = ~np.isnan(sample.xs)
        inside = (sample.xs[known] > -CELL) & (sample.xs[known] < columns + CELL)
        assert inside.mean() > 0.9 if known.any() else kind in ("picture", "blank")


def test_every_kind_of_document_can_be_made(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in KINDS:
        monkeypatch.setattr(documents, "_kind", lambda r, kind=kind: kind)
        texts = [make(random.Random(seed), world, "page").text for seed in range(4)]
        assert any(texts), kind.noun


def test_the_same_seed_makes_the_same_document(world: World) -> None:
    first, second = (make(random.Random(7), world, "page") for _ in range(2))
    assert first.text == second.text
    assert (first.image == second.image).all()


def test_every_kind_of_plot_can_be_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    square = {"type": "Polygon", "arcs": [[0, -2]]}  # the second arc backwards
    atlas = {
        "transform": {"scale": [1, 1], "translate": [170, 0]},
        "arcs": [[[0, 0], [-340, 0]], [[0, 0], [0, 10], [-340, 0], [0, -10]]],  # beyond 180°
        "objects": {"countries": {"geometries": [square]}},
    }
    (tmp_path / "atlas.json").write_text(json.dumps(atlas))
    maps.open_atlas(tmp_path / "atlas.json")
    ((outline,),) = maps.COUNTRIES
    assert np.ptp(outline, axis=0).tolist() == [20, 10]
    monkeypatch.setattr(plots, "LAYOUTS", [(1, 1, [1], 1)])
    for plot in list(plots.PLOTS):
        monkeypatch.setattr(plots, "PLOTS", {plot: 1})
        for seed in range(4):
            assert re.match("An? ", plots.draw(seed, tmp_path / "plot.webp"))
            assert np.ptp(np.asarray(Image.open(tmp_path / "plot.webp"))) > 60, (plot, seed)


@pytest.mark.parametrize("form", [diagrams.diagram, figures.chart])
def test_what_is_drawn_on_a_page_says_what_is_written_on_it(
    world: World, form: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = set()
    for seed in range(60):
        r = random.Random(seed)
        page = Page(r, 20 * CELL, 16 * CELL, 1.0)
        style, say = Style(r, world.library, 12, 1.0), Speaker(r, world.texts)
        said.add(form(page, style, say, 20, 20, 500, 380).split(" with")[0])
        text, xs, _ = page.result()
        assert any(map(str.isalnum, text))
        assert np.nanmin(xs) > -CELL and np.nanmax(xs) < 21 * CELL
    assert said == ({"a diagram"} if form is diagrams.diagram else set(CHARTS))


CHARTS = ("a bar chart", "a line chart", "a pie chart", "a Gantt chart")


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    """One photograph, one drawing, one cut-out and two plots, made for the test."""
    folder = tmp_path_factory.mktemp("pictures")
    for kind in ("photo", "drawing", "cutout", "plot"):
        (folder / kind).mkdir()
    slope = np.add.outer(np.arange(200), np.arange(260)).astype(np.uint8)
    Image.fromarray(slope).save(folder / "photo" / "0.jpg")
    Image.fromarray(np.where(slope > 128, 255, 0).astype(np.uint8)).save(folder / "drawing/0.jpg")
    Image.fromarray(np.dstack([slope] * 4)).save(folder / "cutout" / "0.webp")
    captions = {f"{n}.webp": plots.draw(n, folder / "plot" / f"{n}.webp") for n in range(8)}
    (folder / "plot" / "captions.json").write_text(json.dumps(captions))
    return Pictures(folder)


@pytest.mark.parametrize("kind", ["photo", "drawing", "plot"])
def test_pictures_are_what_they_are_called(gallery: Pictures, kind: str) -> None:
    noun = {"photo": "photograph", "drawing": "drawing", "plot": "plot|chart|histogram|map|draw"}
    for seed in range(40):
        grey, said = getattr(gallery, kind)(random.Random(seed), 300, 220)
        assert grey.shape == (220, 300) and grey.dtype == np.uint8
        assert re.search(noun[kind], said), said
    assert gallery.single and all(not gallery.captions[n].endswith("side") for n in gallery.single)


def test_a_sheet_names_how_many_charts_it_has(world: World, gallery: Pictures) -> None:
    for seed in range(20):
        r = random.Random(seed)
        page = Page(r, 30 * CELL, 24 * CELL, 1.0)
        style, say = Style(r, world.library, 11, 1.0), Speaker(r, world.texts)
        said = sheets.sheet(page, style, say, gallery, Box(10, 10, 800, 640))
        count = figures.NUMBERS.index(said.split(" plots side by side; the first is a")[0].lower())
        assert 2 <= count <= 9
        assert not page.pictures or not page.result()[0]  # of a part one cannot say all


def test_a_turned_page_says_by_how_much_it_has_been_turned() -> None:
    upright = np.zeros((40, 60), np.uint8)
    upright[5, 50] = 255
    seen = set()
    for seed in range(20):
        image, said = turned(random.Random(seed), upright)
        shown = Image.fromarray(image).rotate(answers.turned(said), expand=True)  # anticlockwise
        assert (np.asarray(shown) == upright).all()
        seen.add(answers.turned(said))
    assert seen == {90, 180, 270}


def test_turned_pages_and_other_scripts_are_named_not_read(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "TURNED", {"page": 1.0})
    for seed in range(6):
        sample = make(random.Random(seed), world, "page")
        assert answers.turned(sample.text) == answers.turned(sample.caption)
        assert answers.turned(sample.text) or sum(map(str.isalpha, sample.text)) < FEWEST_LETTERS
    monkeypatch.setattr(documents, "OTHER_SCRIPTS", {"page": 1.0})
    monkeypatch.setitem(world.library.families, "other", world.library.families["text"])
    sample = make(random.Random(3), world, "page")
    assert sample.text == answers.OTHER_SCRIPT and sample.caption.startswith(sample.text)


def test_a_face_in_disguise_draws_letters_of_another_script(tmp_path: Path) -> None:
    cyrillic = scripts.SCRIPTS["Cyrillic"]
    stands = scripts.disguise(cyrillic, 1, set(map(ord, cyrillic.letters + cyrillic.capitals)))
    assert chr(stands[ord("e")]) == "о" and chr(stands[ord("E")]) == "О"
    assert ord("7") not in stands and set(map(ord, "abcxyzABCXYZéß")) <= set(stands)


def test_a_run_for_pictures_still_has_all_the_rest() -> None:
    usual, pictures = stage(1.0), stage(1.0, 0.4)
    at = PACKED.index("picture")
    assert usual.shares[at] < 0.1 and pictures.shares[at] == 0.4
    assert sum(pictures.shares) == pytest.approx(1)
    ratios = {round(a / b, 6) for a, b in zip(pictures.shares, usual.shares, strict=True) if a < b}
    assert len(ratios) == 1  # the others in the same proportions
    assert stage(0.0, 0.4) == stage(0.0)  # not before there are any


def test_a_maker_makes_the_share_of_pictures(world: World, tokenizer: Any) -> None:
    maker = Maker(world, tokenizer, seed=4)
    kinds: dict[str, int] = dict.fromkeys(PACKED, 0)
    for _ in range(60):
        item = maker.sample(stage(1.0, pictures=0.5))
        if item is not None:
            kinds[PACKED[item.kind % len(PACKED)]] += item.cells
    assert 0.3 < kinds["picture"] / sum(kinds.values()) < 0.7


def test_windows_hold_every_cell_once() -> None:
    order, sizes = window_order(7, 10)
    assert sorted(order) == list(range(70))
    assert sum(sizes) == 70
    assert max(sizes) == 16


def _items(maker: Maker, kinds: tuple[str, ...], most: int = 200) -> list[Item]:
    items = []
    for kind in kinds:
        item = None
        while item is None or item.cells > most:
            item = maker.sample(stage(1.0), kind)
        items.append(item)
    return items


def _packed(maker: Maker, items: list[Item], cells: int) -> dict[str, torch.Tensor]:
    size = PackSize(cells)
    pack = size.views(np.zeros(size.bytes, np.uint8))
    used = Packer(maker).fill(pack, size, iter(items))
    assert used["samples"] == len(items)
    return {name: torch.from_numpy(array) for name, array in pack.items()}


def test_the_packed_model_computes_what_transformers_does(world: World, tokenizer: Any) -> None:
    maker = Maker(world, tokenizer, seed=3, corrupt=False)
    items = _items(maker, ("line", "part", "picture"))
    torch.manual_seed(0)
    model = PageReader(TINY)
    batch = _packed(maker, items, 640)
    with torch.no_grad():
        hidden, _ = model.read(batch, model.see(batch))
        logits = hidden @ model.embed.weight.T
    twin = to_checkpoint(model, special_ids(tokenizer))
    ends = np.cumsum([0, *(len(item.tokens) for item in items)])
    for item, (first, last) in zip(items, pairwise(ends), strict=True):
        cells = item.patches.reshape(-1, 4, 196)[item.place_of_cell].reshape(-1, 196)
        patches = torch.from_numpy(cells.astype(np.float32) * (2 / 255) - 1).repeat(1, 6)
        rows, columns = item.cell_place.max(0) + 1
        tokens = torch.from_numpy(item.tokens)[None].long()
        with torch.no_grad():
            theirs = twin(
                input_ids=tokens,
                pixel_values=patches,
                image_grid_thw=torch.tensor([[1, rows * 2, columns * 2]]),
                mm_token_type_ids=(tokens == maker.image).int(),
            ).logits[0]
        assert torch.allclose(logits[first:last], theirs, atol=2e-4)


def test_the_shipped_weights_come_back(tmp_path: Path) -> None:
    model = PageReader()
    load_checkpoint(model, MODEL)
    export(model, MODEL, tmp_path)
    again = PageReader()
    load_checkpoint(again, tmp_path)
    for name, weight in model.named_parameters():
        if not name.startswith("aux"):
            assert torch.allclose(weight, again.get_parameter(name), atol=1e-2), name
    assert max(shard.stat().st_size for shard in tmp_path.glob("*.safetensors")) < 15e6


def test_the_mean_of_two_checkpoints_lies_between_them(tmp_path: Path) -> None:
    shipped, model = read(MODEL), read(MODEL)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.5)
    meet(model, MODEL)
    for name, weight in model.named_parameters():
        if not name.startswith("aux"):
            assert torch.allclose(weight, shipped.get_parameter(name) + 0.25), name


def _lines(world: World, maker: Maker) -> list[Item]:
    items = []
    for number, text in enumerate(LINES):
        page = Page(random.Random(number), 5 * CELL, CELL, 1.0)
        style = Style(random.Random(1), world.library, 14, 1.0)
        page.write(text, style.body, style, Box(6, 6, 1e9, 1e9))
        image = 255 - page.cover
        said, xs, ys = page.result()
        sample = documents.Sample(image, said, xs, ys, "")
        item = maker.item(sample, 0, False, maker.transcribe[0])
        assert item is not None
        items.append(item)
    return items


def test_a_tiny_model_learns_to_read_lines(world: World, tokenizer: Any, tmp_path: Path) -> None:
    """Only the picture tells the lines apart, so it has to look; read back by transformers."""
    torch.manual_seed(0)
    maker = Maker(world, tokenizer, seed=1, corrupt=False)
    items = _lines(world, maker)
    batch = _packed(maker, items, 224)
    model = PageReader(TINY)
    optimizer = Optimizer(model, 6e-3, 3e-3)
    right = 0.0
    for step in range(300):
        loss, measures = model(batch, (0.3, 0.1), sampled_cells=64)
        loss.backward()
        optimizer.step(min(1.0, (step + 1) / 10))
        model.zero_grad(set_to_none=True)
        right = float(measures[:, 1].sum() / measures[:, 0].sum())
        if right == 1.0 and float(measures[:, 2].sum() / measures[:, 0].sum()) < 0.05:
            break
    assert right > 0.95
    assert _read_back(model, items[:3], tokenizer) == [keep(line) for line in LINES[:3]]


def _read_back(model: PageReader, items: list[Item], tokenizer: Any) -> list[str]:
    twin = to_checkpoint(model, special_ids(tokenizer))
    image, texts = tokenizer.token_to_id("<|image_pad|>"), []
    for item in items:
        cells = item.patches.reshape(-1, 4, 196)[item.place_of_cell].reshape(-1, 196)
        patches = torch.from_numpy(cells.astype(np.float32) * (2 / 255) - 1).repeat(1, 6)
        rows, columns = item.cell_place.max(0) + 1
        asked = torch.from_numpy(item.tokens[: item.answer_at[0] + 1])[None].long()
        said = twin.generate(
            input_ids=asked,
            attention_mask=torch.ones_like(asked),
            pixel_values=patches,
            image_grid_thw=torch.tensor([[1, rows * 2, columns * 2]]),
            mm_token_type_ids=(asked == image).int(),
            max_new_tokens=24,
            do_sample=False,
        )
        texts.append(tokenizer.decode(said[0, asked.shape[1] :].tolist()).strip())
    return texts


def test_rounding_is_that_of_bitsandbytes() -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    torch.manual_seed(0)
    weight = torch.randn(96, 128) * torch.logspace(-6, 0, 96)[:, None]
    weight[3] = 0
    theirs = functional.dequantize_4bit(*functional.quantize_4bit(weight, quant_type="nf4"))
    assert torch.equal(nf4(weight.view(-1, 64)).view_as(weight), theirs)


def test_what_the_loader_quantizes_is_rounded_in_training() -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    config = VLMConfig(str(MODEL), "4bit", "transformers", device="cpu", trust_remote_code=False)
    loaded, _ = transformers_model.load(config, FAMILIES["qwen25vl"])
    theirs = {
        name.partition("layers.")[2]
        for name, module in loaded.named_modules()
        if isinstance(module, bitsandbytes.nn.Linear4bit)
    }
    model = PageReader()
    names = {id(p): n.removesuffix(".weight") for n, p in model.named_parameters()}
    plain, language, _, everything = [{names[id(p)] for p in turn} for turn in ways(model)]
    assert {f"layers.{name}" for name in theirs} == language
    assert not plain
    assert language < everything
    assert {"merger.mlp.2", "blocks.0.attn.qkv"} <= everything
    assert not {"embed", "patch"} & everything


def test_a_step_rounds_and_leaves_no_trace(world: World, tokenizer: Any) -> None:
    """The gradient is that at the rounded weights; the step is from the true ones."""
    maker = Maker(world, tokenizer, seed=5, corrupt=False)
    batch = _packed(maker, _items(maker, ("line",)), 224)
    model = PageReader(TINY)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with rounded(ways(model)[3]):
        inside = {name: weight.clone() for name, weight in model.state_dict().items()}
        model(batch, (0.0, 0.0))[0].backward()
    assert all(torch.equal(before[name], w) for name, w in model.state_dict().items())
    changed = {name for name, weight in inside.items() if not torch.equal(before[name], weight)}
    assert changed == {
        n for n, p in model.named_parameters() if any(p is q for q in ways(model)[3])
    }
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    model.load_state_dict(inside)
    model(batch, (0.0, 0.0))[0].backward()
    again = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(torch.allclose(a, b) for a, b in zip(gradients, again, strict=True))


def test_captions_can_count_more_than_pages(world: World, tokenizer: Any) -> None:
    """The loss is the weighted mean of what is measured by kind."""
    maker = Maker(world, tokenizer, seed=6, corrupt=False)
    made = naming.pictures(world, maker, each=1, seed=2)["table"]
    batch = _packed(maker, [*_items(maker, ("line",)), *made], 2048)
    model = PageReader(TINY)
    with torch.no_grad():
        for times in (1.0, 8.0):
            loss, measures = model(batch, (0.0, 0.0), caption_weight=times)
            count, entropy = measures[:, 0], measures[:, 2]
            weight = torch.tensor([1.0] * len(PACKED) + [times] * len(PACKED))
            assert count[: len(PACKED)].sum() > 0 and count[len(PACKED) :].sum() > 0
            expected = (entropy * weight).sum() / (count * weight).sum()
            assert float(loss) == pytest.approx(float(expected), rel=1e-4)


def test_a_run_saves_on_the_way_and_goes_on(world: World, data: Path, tmp_path: Path) -> None:
    """The program itself, rounding from the start."""
    command = [sys.executable, "-m", "training.train", str(data), str(tmp_path), "--tiny"]
    command += ["--cells", "256", "--workers", "1", "--every", "1", "--minutes", "0.02"]
    command += ["--quantize-from", "0", "--save-every", "0", "--pictures", "0.4"]
    command += ["--caption-weight", "8"]
    state = {}
    for piece in (["--stop-after", "0"], []):
        subprocess.run([*command, *piece], cwd=PROJECT, check=True, timeout=300)
        state = torch.load(tmp_path / "last.pt", weights_only=True)
    assert state["spent"] >= 0.02 * 60
    assert state["optimizer"]["steps"] >= 4
    PageReader(TINY).load_state_dict(state["model"])
    assert "stopped after 0 steps" in (tmp_path / "log.txt").read_text()


@pytest.mark.parametrize(
    ("caption", "name"),
    [
        ("A line chart with two lines, titled “A map”.", "lines"),
        ("Four plots side by side; the first is a pie chart.", "several plots"),
        ("This page is in a script that is not read here. A table of two rows.", "table"),
        ("A form with a title and a diagram.", naming.OTHER),
        ("", naming.OTHER),
    ],
)
def test_a_caption_belongs_to_a_class(caption: str, name: str) -> None:
    assert naming.class_of(caption) == name


def test_the_shipped_weights_name_some_kinds(
    world: World, tokenizer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    maker = Maker(world, tokenizer, seed=0, corrupt=False)
    made = naming.pictures(world, maker, each=2, seed=1)
    assert {"diagram", "table"} <= set(made)
    assert all(len(items) <= 2 for items in made.values())
    twin = naming.load(MODEL, tokenizer)
    items = [(name, item) for name in ("diagram", "table") for item in made[name]]
    called = [(name, naming.class_of(naming.said(twin, item, tokenizer))) for name, item in items]
    assert sum(name == given for name, given in called) >= len(called) / 2
    naming.show({name: Counter([given]) for name, given in called})
    assert " of   2" in capsys.readouterr().out.splitlines()[-1]


def test_plots_say_what_they_are(tmp_path: Path) -> None:
    captions = {plots.draw(seed, tmp_path / f"{seed}.webp") for seed in range(3)}
    assert all(caption.endswith(".") for caption in captions)
    for file in tmp_path.glob("*.webp"):
        red, green, _ = np.moveaxis(np.asarray(Image.open(file).convert("RGB")), 2, 0)
        assert np.ptp(red.astype(int) - green) <= 6  # as grey as WebP has it
