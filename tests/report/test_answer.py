"""The sentences that a report across runs opens with."""

from typing import Any

from made_results import made

from fastlt.experiment.results import from_json
from fastlt.report.compare.answer import answers
from fastlt.report.compare.drafts import scopes_of
from fastlt.report.compare.runs import RunGroup, gather
from fastlt.report.summary import headline


def grouped(*runs: dict[str, Any]) -> list[RunGroup]:
    return gather((str(place), from_json(one)) for place, one in enumerate(runs))[0]


def run(seed: int = 0, sampler: str = "instance", crt: tuple[float, float] = (27.4, 49.6), **fields: Any) -> Any:
    """One run whose cRT has these accuracies on few-shot classes and on all."""
    results = made(names=("joint", "crt")) | {"seed": seed, "sampler": sampler, "key": f"{sampler}{seed}"} | fields
    results["classifiers"]["crt"] |= {"few": crt[0], "all": crt[1]}
    return results


def test_the_best_and_what_it_gains_on_the_joint_classifier() -> None:
    (told,) = answers(grouped(run(), run(sampler="class", crt=(20.0, 55.0))))
    assert " ".join(told) == (
        "shapes: over all test images, cRT on the class-balanced representation is best with 55.0 %, 10.6 points above "
        "the joint classifier on the instance-balanced one (44.4 %). Best on classes by their number of training "
        "images, against that joint classifier: few-shot cRT on the instance-balanced representation, 27.4 % (+19.7); "
        "medium-shot cRT on the instance-balanced representation, 46.2 % (+8.7); many-shot joint on the "
        "instance-balanced representation, 65.9 % (+0.0). Each number is of one seed, which says little about "
        "differences of a few points."
    )


def test_a_difference_that_seeds_explain_is_called_chance() -> None:
    far = answers(grouped(run(0), run(1, crt=(27.4, 49.8))))[0]
    assert "49.7 ± 0.1 %, 5.3 points above the joint classifier on the same representation (44.4 ± 0.0 %)." in far[0]
    assert far[-1] == "Means ± standard deviations are over 2 seeds."
    near = answers(grouped(run(0, crt=(27.4, 40.0)), run(1, crt=(27.4, 50.0))))[0]
    assert "(44.4 ± 0.0 %), a difference that the seeds cannot tell from chance." in near[0]


def test_numbers_of_one_and_of_several_seeds_are_told_apart() -> None:
    alone = run(2, sampler="class", crt=(27.4, 60.0))
    several = [run(seed, sampler="sqrt", crt=(50.0, 40.0)) for seed in (0, 1, 2)]
    assert answers(grouped(alone, *several))[0][-1] == "Means ± standard deviations are over 1 to 3 seeds."


def test_choices_made_on_test_win_nothing() -> None:
    flattered = made(names=("joint", "tau_norm"), choose_on="test")
    assert not any("tau-norm" in sentence for sentence in answers(grouped(flattered))[0])


def test_representations_are_told_apart_by_what_differs() -> None:
    ((text, *_),) = answers(grouped(run(), run(backbone="resnet18", crt=(30.0, 60.0))))
    assert "cRT on the instance-balanced representation (resnet18) is best with 60.0 %" in text


def test_an_uneven_test_is_told_by_mean_class_accuracy() -> None:
    uneven = run()
    uneven["class_counts"]["test"] = [100, *[3] * 35]
    uneven["classifiers"]["crt"]["mean_class"] = 40.0
    uneven["classifiers"]["joint"]["mean_class"] = 35.0
    groups = grouped(uneven)
    assert headline(groups[0].runs[0]) == "mean_class" and headline(from_json(run())) == "all"
    assert "by mean class accuracy, cRT on" in answers(groups)[0][0] and "40.0 %, 5.0 points" in answers(groups)[0][0]
    assert scopes_of(groups) == ("many", "medium", "few", "all", "mean_class")


def test_a_group_without_classes_has_no_column() -> None:
    groups = grouped(made(train=[500, 300, 200], names=("joint", "crt")))
    assert scopes_of(groups) == ("many", "all")


def test_no_run_no_answer() -> None:
    assert answers([]) == ()
