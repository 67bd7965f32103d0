import itertools

import numpy as np
import pytest
import torch
from scipy.special import erf

from benchmarks.reproductions.dpp import _teacher_student_theory as theory
from benchmarks.reproductions.dpp._erf_students import (
    Setting,
    Student,
    ideal_students,
    prune_edges,
    prune_nodes,
    reweight_nodes,
    trained_students,
)
from benchmarks.reproductions.dpp._teacher_student import METHODS, edge_error, node_errors, statement, study
from methods.seeds import stream

pytestmark = pytest.mark.slow

SIZE = (2, 3, 4.0)  # M, z, v* of the published experiment
FRACTIONS = (0.166, 0.332, 0.5, 0.666, 0.834)


def random_student(seed=0, units=4, teachers=3, inputs=60):
    rng = np.random.default_rng(seed)
    return Student(
        rng.normal(size=(units, inputs)),
        rng.normal(size=units),
        rng.normal(size=(teachers, inputs)),
        rng.normal(size=teachers),
    )


def test_error_equals_monte_carlo():
    student = random_student()
    x = np.random.default_rng(1).normal(size=(200_000, 60))

    def output(weight, v):
        return erf(x @ weight.T / np.sqrt(2 * 60)) @ v

    losses = (output(student.weight, student.v) - output(student.teacher, student.v_star)) ** 2 / 2
    assert abs(losses.mean() - student.error()) < 3 * losses.std() / np.sqrt(len(losses))


def test_a_student_equal_to_its_teacher_makes_no_error():
    student = random_student()
    assert Student(student.teacher, student.v_star, student.teacher, student.v_star).error() == pytest.approx(
        0, abs=1e-13
    )
    assert ideal_students(Setting(ideals=1, inputs=50), 0)[0].error() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("form", "published"),
    [
        (theory.random_edge, (3.760, 2.578, 1.659, 0.951, 0.399)),  # evaluated by the authors' code
        (theory.dpp_edge, (2.405, 1.204, 0.556, 0.205, 0.042)),
        (theory.importance_edge, (2.332, 1.062, 0.417, 0.118, 0.014)),
    ],
)
def test_edge_formulas_give_the_tabulated_values(form, published):
    assert [form(c, *SIZE) for c in FRACTIONS] == pytest.approx(published, abs=0.01)


def test_node_formulas_give_the_tabulated_values():
    ks = range(1, 6)
    assert [theory.balanced_node(k, *SIZE) for k in ks] == pytest.approx([3.852, 2.370, 1.481, 0.593, 0.296], abs=1e-3)
    assert [theory.random_node(k, *SIZE) for k in ks] == pytest.approx([3.852, 2.607, 1.600, 0.830, 0.296], abs=1e-3)
    assert [theory.dpp_node_reweighted(k, *SIZE) for k in ks] == pytest.approx([2.667, 0, 0, 0, 0], abs=1e-3)
    expected = [2.667, 1.067, 0.267, 0, 0]
    assert [theory.random_node_reweighted(k, *SIZE) for k in ks] == pytest.approx(expected, abs=1e-3)


def test_dpp_edge_moments_equal_numerical_integration():
    rng = np.random.default_rng(0)
    w2 = rng.normal(size=1_000_000) ** 2
    for c in (0.2, 0.6):
        low, high = 1e-6, 100.0
        for _ in range(60):
            a = (low * high) ** 0.5
            low, high = (a, high) if (w2 / (w2 + a)).mean() > c else (low, a)
        p = w2 / (w2 + a)
        own, both = (p * w2).mean(), (p**2 * w2).mean()
        assert theory.dpp_edge(c, *SIZE) == pytest.approx(theory.block_error(own, both, own, *SIZE), abs=0.02)


@pytest.mark.parametrize("form", [theory.random_edge, theory.dpp_edge, theory.importance_edge])
def test_nothing_pruned_nothing_lost(form):
    assert form(1.0, *SIZE) == pytest.approx(0, abs=1e-12)
    assert form(1e-3, *SIZE) == pytest.approx(2 * 16 / 6, rel=0.02)  # everything pruned: the teacher's own variance / 2


def test_random_and_dpp_nodes_equal_enumeration():
    owner = [0, 0, 0, 1, 1, 1]
    delta = 1e-5
    kernel = np.kron(np.eye(2), np.ones((3, 3))) + delta * np.eye(6)
    for k in range(1, 6):
        sets = list(itertools.combinations(range(6), k))
        values = np.array([theory.node_error(np.bincount([owner[i] for i in s], minlength=2), 3, 4.0) for s in sets])
        weights = np.array([np.linalg.det(kernel[np.ix_(s, s)]) for s in sets])
        assert theory.random_node(k, *SIZE) == pytest.approx(values.mean(), abs=1e-10)
        assert theory.dpp_node(k, *SIZE) == pytest.approx(values @ weights / weights.sum(), abs=1e-3)
        assert theory.balanced_node(k, *SIZE) == pytest.approx(values.min(), abs=1e-12)
        lost = np.array([4.0**2 / 6 * (2 - len({owner[i] for i in s})) for s in sets])
        assert theory.random_node_reweighted(k, *SIZE) == pytest.approx(lost.mean(), abs=1e-10)


def test_node_formula_is_exact_for_ideal_students():
    student = ideal_students(Setting(ideals=1, teachers=3, copies=4, inputs=80), 1)[0]
    kept = np.array([0, 1, 2, 5, 8, 9])
    error = student.error(nodes=kept, v=student.v[kept])
    assert error == pytest.approx(theory.node_error([3, 1, 2], 4, 4.0), abs=1e-10)


def test_random_edge_theory_holds_for_large_inputs():
    setting = Setting(ideals=1, inputs=2000)
    student = ideal_students(setting, 0)[0]
    for edges in (400, 1000, 1600):
        generator = stream(0, "masks", edges)
        values = [student.error(prune_edges("random_edge", student, edges, generator)) for _ in range(50)]
        assert np.mean(values) == pytest.approx(theory.random_edge(edges / 2000, *SIZE), rel=0.03)


def test_reweighted_dpp_nodes_lose_nothing_once_every_block_is_covered():
    student = ideal_students(Setting(ideals=1, inputs=100), 2)[0]
    for k in range(2, 6):
        for seed in range(5):
            kept = prune_nodes("dpp_node", student, k, stream(seed, k))
            assert len(kept) == k and {int(i) // 3 for i in kept} == {0, 1}
            assert student.error(nodes=kept, v=reweight_nodes(student, kept)) == pytest.approx(0, abs=1e-10)


def test_reweighting_is_the_best_second_layer():
    student = random_student(units=5)
    kept = np.array([0, 2, 3])
    v = reweight_nodes(student, kept)
    own = Student(student.weight, student.v, student.weight, student.v)  # against the unpruned student itself
    best = own.error(nodes=kept, v=v)
    rng = np.random.default_rng(0)
    assert all(best <= own.error(nodes=kept, v=v + 0.1 * rng.normal(size=3)) for _ in range(20))
    assert best < own.error(nodes=kept, v=student.v[kept])


@pytest.mark.parametrize("method", [m for m in METHODS if m.endswith("edge")])
def test_edge_masks_keep_exactly_their_number(method):
    student = random_student()
    pruned = prune_edges(method, student, 17, stream(0, method))
    assert ((pruned != 0).sum(1) == 17).all()
    assert np.array_equal(pruned[pruned != 0], student.weight[pruned != 0])
    if method == "importance_edge":
        dropped = np.where(pruned == 0, np.abs(student.weight), -np.inf).max(1)
        assert (np.where(pruned != 0, np.abs(student.weight), np.inf).min(1) > dropped).all()


def test_node_importance_uses_the_magnitude():
    student = random_student()
    student = Student(student.weight, np.array([0.5, -3.0, 1.0, -0.1]), student.teacher, student.v_star)
    assert prune_nodes("importance_node", student, 2, stream(0)).tolist() == [1, 2]


def test_blocks_of_training_are_the_online_steps_of_the_paper():
    setting = Setting(inputs=20, steps=100, students=1, sigma=0.1)
    student = trained_students(setting, 3, block=50)[0]
    generator = stream(3, "trained", setting.label)
    teacher, weight, v = (
        torch.randn(1, n, *rest, generator=generator)[0].double().numpy()
        for n, rest in ((2, (20,)), (6, (20,)), (6, ()))
    )
    for _ in range(2):
        inputs = torch.randn(1, 50, 20, generator=generator)[0].double().numpy()
        noise = torch.randn(1, 50, generator=generator)[0].double().numpy()
        for x, zeta in zip(inputs, noise, strict=True):
            h = weight @ x / np.sqrt(20)
            g = erf(h / np.sqrt(2))
            delta = v @ g - 4 * erf(teacher @ x / np.sqrt(40)).sum() - 0.1 * zeta
            weight = weight - 0.5 / np.sqrt(20) * delta * np.outer(v * np.sqrt(2 / np.pi) * np.exp(-h * h / 2), x)
            v = v - 0.5 / 20 * delta * g
    weight *= np.sqrt(20) / np.linalg.norm(weight, axis=1, keepdims=True)
    assert np.allclose(student.v, v, atol=1e-4) and np.allclose(student.weight, weight, atol=1e-4)


def test_regime_of_the_random_edge_claim():
    assert theory.random_edge_wins(2, 3) == [1]
    assert set(range(1, 6)) <= set(theory.random_edge_wins(5, 4))
    assert len(theory.random_edge_wins(5, 4)) < 19
    assert theory.smallest_winning_copies() == pytest.approx(1.30, abs=0.01)
    text = " ".join(statement([Setting(), Setting(teachers=5, copies=4)]))
    assert "holds for k = 1, fails for k = 2-5" in text


def test_ideal_students_agree_with_theory():
    students = ideal_students(Setting(ideals=4), 0)
    for k, edges in ((2, 166), (4, 333)):
        for method, draws in (("random_edge", 10), ("dpp_edge", 3), ("importance_edge", 1)):
            values = [edge_error(s, method, edges, draws, stream(i, method, k)) for i, s in enumerate(students)]
            assert np.mean(values) == pytest.approx(getattr(theory, method)(edges / 500, *SIZE), rel=0.05, abs=0.03)
        for method in ("random_node", "dpp_node"):
            pairs = [node_errors(s, method, k, 500, stream(i, method, k)) for i, s in enumerate(students)]
            plain, reweighted = np.mean(pairs, axis=0)
            assert plain == pytest.approx(getattr(theory, method)(k, *SIZE), rel=0.05)
            assert reweighted == pytest.approx(getattr(theory, f"{method}_reweighted")(k, *SIZE), rel=0.1, abs=1e-9)


def test_study_and_report(tmp_path):
    setting = Setting(inputs=40, steps=2000, students=2, ideals=2, draws=2, node_draws=5, nodes=(1, 3))
    table = study([setting], seed=1)
    assert len(table) == 2 * (1 + len(METHODS) * 2 * 2)
    assert table.equals(study([setting], seed=1))
    assert table["published"].isna().all()  # published numbers are for N = 500 only
    assert np.isfinite(table["mean"]).all()
    edges = table[table["method"] == "random_edge"].pivot_table(
        index=["student", "k"], columns="reweighted", values="mean"
    )
    assert (edges[False] == edges[True]).all()
