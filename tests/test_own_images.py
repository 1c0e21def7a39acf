"""One's own images: groups that a split keeps together, uneven classes, the answer for images of no class."""

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import blobs, read_json, read_jsonl, small, write_rows
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor
from torch.nn.functional import cross_entropy

import predict5
import train
from backbones.imagenet_weights import BackboneWeights
from dataset import ActionData, Sample, TrainTransform, read_dataset
from evaluation.bootstrap import bootstrap_intervals
from evaluation.metrics import is_uneven
from features.batches import epoch_order
from features.decode import ImageReader
from model import build_model
from runtime.arguments import parse
from runtime.errors import InputError
from splits.groups import group_names, join_groups
from splits.split import hold_out_groups, split_data
from training.feeds import ImageSource, class_weights, sampling_shares
from training.loop import row_losses

UNEVEN = torch.tensor([0] * 90 + [1] * 9 + [2])


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Frames of 12 clips in class folders, six frames a clip; a clip's frames differ by noise."""
    rng = np.random.default_rng(0)
    for clip in range(12):
        folder = tmp_path / "clips" / ("run", "sit")[clip % 2]
        folder.mkdir(parents=True, exist_ok=True)
        for frame in range(6):
            image = blobs(100 * clip + frame)
            image.save(folder / f"clip_{clip:02d}_{rng.integers(10**6):06d}.png")
    return tmp_path / "clips"


@pytest.fixture
def people(kaggle: Path) -> Path:
    """The Kaggle set with a column Person: five of them, each with images of both classes, and one image of nobody."""
    rows = [(f"Image_{n}.jpg", ("run", "sit")[n % 2], f"P{n // 4}" if n else "") for n in range(20)]
    write_rows(kaggle / "Training_set.csv", [("filename", "label", "Person"), *rows])
    return kaggle


def parts_of(data: ActionData, option: str, seed: int) -> list[set[str]]:
    groups = group_names(data, option)
    names = [groups.get(sample.name) for sample in data.labelled]
    split = split_data(data, join_groups(range(len(names)), names), seed, is_grouped=True)
    return [{groups.get(sample.name, sample.name) for sample in part} for part in (split.train, split.val, split.test)]


def test_images_of_a_group_are_in_one_part(clips: Path, people: Path) -> None:
    for folder, option, count in ((clips, r"(clip_\d+)_", 12), (people, "person", 6)):
        data = read_dataset(folder)
        assert len({frozenset(parts_of(data, option, seed)[2]) for seed in range(5)}) > 1  # the seed chooses
        for seed in range(5):
            parts = parts_of(data, option, seed)
            assert all(parts)
            assert not any(one & other for one, other in combinations(parts, 2))
            assert len(set.union(*parts)) == count
        apart = split_data(data, range(len(data.labelled)), 0)  # the default, for comparison, divides them
        groups = group_names(data, option)
        assert {groups.get(s.name) for s in apart.train} & {groups.get(s.name) for s in apart.test}


def test_several_brackets_and_chains_make_groups(clips: Path) -> None:
    groups = group_names(read_dataset(clips), r"(run|sit)/.*_0(\d)_")
    assert set(groups.values()) == {f"{('run', 'sit')[n % 2]} {n}" for n in range(10)}  # clips 10 and 11 match nothing
    joined = join_groups([0, 0, 1, 2, 3, 4], ["a", None, "a", "b", None, "b"])  # 0 is joined by number, 1 by name
    assert [sorted(np.flatnonzero(joined == number)) for number in joined[[0, 3, 4]]] == [[0, 1, 2], [3, 5], [4]]


@pytest.mark.parametrize("sizes", [(2, 2, 2), (1, 1, 8), (5, 1, 1)])
def test_a_class_of_three_groups_is_split_whatever_their_size(sizes: tuple[int, ...]) -> None:
    numbers = [*range(90), *(90 + group for group, size in enumerate(sizes) for _ in range(size))]
    samples = [Sample(f"{n}", Path(), "ab"[n >= 90]) for n in range(len(numbers))]
    data = ActionData("set", Path(), ["a", "b"], samples)
    for seed in range(5):
        split = split_data(data, numbers, seed, is_grouped=True)
        counts = [sum(s.label == "b" for s in part) for part in (split.train, split.val, split.test)]
        assert sorted(counts) == sorted(sizes)
    with pytest.raises(InputError, match=r"'b' \(4 in 2 groups\); .* with --group, each needs three groups"):
        split_data(
            ActionData("set", Path(), ["a", "b"], samples[:94]), [*range(90), 90, 90, 91, 91], 0, is_grouped=True
        )
    held = hold_out_groups(samples[90:92], {"90": 0, "91": 0}, 0.5, np.random.default_rng(0), leave=1)[1]
    assert held == []  # the only group stays


def test_people_with_images_of_every_class_are_held_out_in_the_right_number() -> None:
    """Whatever the order of the rows."""
    rows = [(f"{person} {label} {n}", label, person) for person in range(20) for label in range(15) for n in range(3)]
    for seed in range(4):
        shuffled = [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))]
        for order in (rows, shuffled, sorted(rows, key=lambda row: row[1])):
            samples = [Sample(name, Path(), f"c{label:02d}") for name, label, _ in order]
            data = ActionData("set", Path(), sorted({sample.label for sample in samples}), samples)
            split = split_data(data, [person for _, _, person in order], seed, is_grouped=True)
            assert len({sample.name.split()[0] for sample in split.test}) == 3  # 15 % of 20
            assert len({sample.name.split()[0] for sample in split.val}) in (3, 4)  # 20 % of 17


def test_images_that_are_in_no_group_make_none() -> None:
    assert sorted(join_groups([0, 1, 1], [None, None, None])) == [0, 1, 1]


def test_a_column_may_have_brackets_in_its_name(people: Path) -> None:
    plain = group_names(read_dataset(people), "person")
    table = people / "Training_set.csv"
    table.write_text(table.read_text().replace("Person", "Person (id)"))
    assert group_names(read_dataset(people), "person (id)") == plain


def test_wrong_groups_are_one_line(people: Path, clips: Path) -> None:
    data, folders = read_dataset(people), read_dataset(clips)
    with pytest.raises(InputError, match=r"Training_set.csv: no column actor, found filename, label, Person"):
        group_names(data, "actor")
    with pytest.raises(InputError, match=r"--group person: .*clips has no CSV with columns; give a pattern .*clip_"):
        group_names(folders, "person")
    with pytest.raises(InputError, match=r"--group \(x\): no two images share .*0 of 72 .* is run/clip_00_\d+.png\)"):
        group_names(folders, "(x)")
    with pytest.raises(InputError, match=r"--group filename: no two images share a group \(20 of 20 have"):
        group_names(data, "filename")
    for wrong, why in (("(clip", "is no regular expression"), (r"clip_\(\d", "put brackets around")):
        with pytest.raises(InputError, match=why):
            train.main(small(data=clips, group=wrong))


def test_groups_are_stored_resumed_and_tested(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    train.main(small(data=people, group="person", run="g", balance="loss", val_share=0.4))
    assert "--group person: 19 images in 5 groups, 1 in none" in capsys.readouterr().out
    split = read_json(Path("results/g/split.json"))
    assert split["group"] == "person"
    assert split["groups"]["train/Image_5.jpg"] == "P1"
    rows = read_jsonl(Path("results/g/metrics.jsonl"))
    last = torch.load("results/g/last.pt", weights_only=True)
    last["arguments"]["epochs"] = 3  # as if it had been interrupted before its last epoch
    torch.save(last, "results/g/last.pt")
    train.main(train.Args(resume=True, run="g"))
    record = read_json(Path("results/g/best.json"))
    assert (record["arguments"]["group"], record["recipe"]["balance"]) == ("person", "loss")
    assert read_jsonl(Path("results/g/metrics.jsonl"))[:2] == rows
    train.main(small(data=people, run="h", head="g", balance="sampling"))  # the same split without naming the groups
    assert read_json(Path("results/h/split.json")) == split
    capsys.readouterr()
    predict5.main(predict5.Args(run="g", no_report=True))
    assert len({split["groups"].get(name, name) for name in split["test"]}) == 1  # of five people
    assert read_json(Path("results/g/test/metrics.json"))["groups"] == 1
    assert "intervals over test images; all are of one group: too narrow" in capsys.readouterr().out
    split["groups"] |= {name: name for name in split["test"]}  # as if each were another's
    Path("results/g/split.json").write_text(json.dumps(split))
    (people / "Training_set.csv").write_text((people / "Training_set.csv").read_text().replace("Person", "someone"))
    predict5.main(predict5.Args(run="g", no_report=True))  # takes the groups of the training, not of today's table
    assert f"95 % bootstrap intervals over {len(split['test'])} groups of images" in capsys.readouterr().out


def test_intervals_over_groups_are_wider_where_groups_are_alike() -> None:
    rng = np.random.default_rng(0)
    right = np.repeat(rng.random(20) < 0.7, 10)  # ten frames a clip, all right or all wrong
    targets = torch.tensor(rng.integers(2, size=200))
    logits = torch.nn.functional.one_hot(torch.where(torch.tensor(right), targets, 1 - targets), 2).double()
    groups = np.repeat(np.arange(20), 10)
    widths = [
        np.ptp(bootstrap_intervals(logits, targets, ["a", "b"], numbers)["accuracy"]) for numbers in (None, groups)
    ]
    share = right.mean()
    expected = [2 * 1.96 * np.sqrt(share * (1 - share) / n) for n in (200, 20)]  # of independent images, of clips
    assert widths == pytest.approx(expected, rel=0.15)


def test_weights_make_classes_count_alike() -> None:
    weights = class_weights(UNEVEN, 3)
    theirs = compute_class_weight("balanced", classes=np.arange(3), y=UNEVEN.numpy())
    assert weights.numpy() == pytest.approx(theirs)
    logits = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    by_class = [cross_entropy(logits[rows], UNEVEN[rows]) for rows in (UNEVEN.eq(k) for k in range(3))]
    weighted = row_losses(logits, UNEVEN, 0.0, weights).mean()
    assert weighted.item() == pytest.approx(torch.stack(by_class).mean().item(), rel=1e-5)
    assert row_losses(logits, UNEVEN, 0.1, None).mean().item() == pytest.approx(
        cross_entropy(logits, UNEVEN, label_smoothing=0.1).item(), rel=1e-5
    )


def test_sampling_draws_classes_alike() -> None:
    def drawn(seed: int) -> Tensor:
        order = epoch_order(100, torch.Generator().manual_seed(seed), sampling_shares(UNEVEN, 3))
        assert len(order) == 100
        return UNEVEN[order].bincount(minlength=3)

    counts = torch.stack([drawn(seed) for seed in range(60)]).float().mean(0)
    assert counts.numpy() == pytest.approx([100 / 3] * 3, abs=3)
    assert drawn(1).tolist() == drawn(1).tolist()


def test_an_image_that_is_drawn_often_is_cropped_anew(untrained: BackboneWeights, tmp_path: Path) -> None:
    for n in range(10):
        blobs(n, (200, 160)).save(tmp_path / f"{n}.png")
    samples = [Sample(f"{n}", tmp_path / f"{n}.png", "ab"[n == 9]) for n in range(10)]
    model = build_model(untrained, 2)
    source = ImageSource(
        model, samples, [], ["a", "b"], TrainTransform(64), 10, ImageReader(torch.device("cpu"), 0), 0, balanced=True
    )
    ((images, targets),) = source.train(1)
    crops = {pixels.numpy().tobytes() for pixels in images[targets == 1]}
    assert len(crops) == (targets == 1).sum() > 2


def test_older_epochs_without_macro_average_are_resumed(
    kaggle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = (kaggle / "Training_set.csv").read_text().splitlines()
    (kaggle / "Training_set.csv").write_text("\n".join(rows[:1] + rows[1::2] + rows[2:10:2]))
    train.main(small(data=kaggle, run="o", epochs=1))
    last = torch.load("results/o/last.pt", weights_only=True)
    for part in ("train", "val"):
        last["state"]["history"][0][part].pop("macro_f1")
    torch.save(last, "results/o/last.pt")
    train.main(train.Args(resume=True, run="o"))
    assert "validation accuracy" in capsys.readouterr().out


def test_macro_figures_come_first_where_classes_are_uneven(
    kaggle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    (kaggle / "test" / "extra").mkdir()
    rows = [("filename", "label"), *((f"extra/{n}.png", "run" if n < 9 else "sit") for n in range(12))]
    for n in range(12):
        blobs(500 + n).save(kaggle / "test" / rows[n + 1][0])
    write_rows(kaggle / "Testing_set.csv", rows)
    train.main(small(data=kaggle, run="r"))
    assert "validation accuracy" in capsys.readouterr().out  # of even classes
    predict5.main(predict5.Args(run="r"))
    shown = capsys.readouterr().out
    assert "classes of 3 to 9 images: first the macro averages" in shown
    assert shown.index("\n  macro_f1 ") < shown.index("\n  accuracy ")
    values = read_json(Path("results/r/test/metrics.json"))
    assert f"test macro F1 {values['macro_f1']:.4f}, accuracy {values['accuracy']:.4f} on 12 images" in shown
    page = Path("results/r/test/report.html").read_text(encoding="utf-8")
    assert page.index("<dt>macro F1</dt>") < page.index("<dt>accuracy</dt>")
    assert [is_uneven(counts) for counts in ((5, 9), (5, 10), (0, 5, 5))] == [False, True, False]


def test_unsure_is_the_threshold() -> None:
    args, _ = parse(predict5.Args, ["photo.jpg", "--unsure", "0.6"])
    assert args == replace(predict5.Args(), images=(Path("photo.jpg"),), threshold=0.6)
