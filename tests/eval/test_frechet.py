"""The Frechet distance has its closed form, also where covariances are singular."""

import pytest
import torch
from torch import Tensor

from vdistill.core.errors import UserError
from vdistill.eval.frechet import Gaussian, distance, frechet, gaussian
from vdistill.worlds.judge import features
from vdistill.worlds.shapes import Shapes


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def spd(size: int, seed: int) -> Tensor:
    root = normal(size, size, seed=seed)
    return root @ root.T + 0.1 * torch.eye(size, dtype=torch.float64)


def of(mean: Tensor, covariance: Tensor) -> Gaussian:
    return Gaussian(mean.double(), covariance.double(), 2)


def test_a_set_has_no_distance_from_itself() -> None:
    x = normal(50, 12)
    assert frechet(x, x) < 1e-12
    assert frechet(x, x[torch.randperm(50)]) < 1e-12
    assert frechet(normal(5, 40), normal(5, 40)) < 1e-12  # singular: fewer samples than features


def test_in_one_dimension_it_is_the_difference_of_means_and_deviations() -> None:
    a, b = of(torch.tensor([1.0]), torch.tensor([[4.0]])), of(torch.tensor([4.0]), torch.tensor([[25.0]]))
    assert distance(a, b) == pytest.approx(3**2 + (5 - 2) ** 2, abs=1e-12)


def test_diagonal_covariances_add_up_by_dimension() -> None:
    s, r = torch.rand(6, dtype=torch.float64) + 0.1, torch.rand(6, dtype=torch.float64) + 0.1
    mean = normal(6)
    want = float(mean.square().sum() + (s - r).square().sum())
    assert distance(of(mean, torch.diag(s**2)), of(0 * mean, torch.diag(r**2))) == pytest.approx(want, abs=1e-10)


def test_it_agrees_with_the_matrix_square_root_of_the_definition() -> None:
    a, b = spd(8, 1), spd(8, 2)

    def root(m: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(m)
        return vectors @ torch.diag(values.sqrt()) @ vectors.T

    want = float((a + b - 2 * root(root(a) @ b @ root(a))).trace())
    assert distance(of(torch.zeros(8), a), of(torch.zeros(8), b)) == pytest.approx(want, rel=1e-10)


def test_it_is_symmetric_and_blind_to_rotation_and_shift() -> None:
    x, y = normal(40, 7) * 2, normal(40, 7, seed=1)
    turn = torch.linalg.qr(normal(7, 7, seed=3)).Q
    assert frechet(x, y) == pytest.approx(frechet(y, x), rel=1e-10)
    assert frechet(x @ turn + 5, y @ turn + 5) == pytest.approx(frechet(x, y), rel=1e-9)
    assert frechet(3 * x, 3 * y) == pytest.approx(9 * frechet(x, y), rel=1e-10)


def test_a_shift_adds_its_square() -> None:
    x = normal(40, 7)
    assert frechet(x, x + 2) == pytest.approx(7 * 4, rel=1e-10)


def test_point_masses_are_as_far_apart_as_their_points() -> None:
    zero = torch.zeros(3, 3)
    assert distance(of(torch.zeros(3), zero), of(torch.ones(3), zero)) == pytest.approx(3)


def test_features_are_called_in_batches_with_the_same_result() -> None:
    x, y = normal(10, 2, 3), normal(9, 2, 3, seed=1)
    flat = frechet(x.flatten(1), y.flatten(1))
    assert frechet(x, y, lambda z: z.flatten(1), batch=4) == pytest.approx(flat, rel=1e-12)


def test_bad_features_are_refused() -> None:
    with pytest.raises(UserError, match="N >= 2"):
        gaussian(torch.zeros(1, 4))
    with pytest.raises(UserError, match="non-finite"):
        gaussian(torch.tensor([[1.0], [float("nan")]]))
    with pytest.raises(UserError, match="dimensions"):
        frechet(torch.zeros(3, 2), torch.zeros(3, 4))


def test_on_the_shapes_world_it_grows_with_corruption() -> None:
    def clips(seed: int) -> Tensor:
        return torch.stack([Shapes(seed=seed).clip(i) for i in range(32)])

    truth, other = clips(1), clips(0)
    noise = torch.randn(other.shape, generator=torch.Generator().manual_seed(0))
    reference = features(truth)
    far = [frechet(reference, features(other + s * noise)) for s in (0.0, 0.3, 0.6)]
    assert far == sorted(far) and far[-1] > 3 * far[0]
    assert frechet(reference, features(truth)) < 1e-9
    still = other[:, :, :1].expand_as(other)
    assert frechet(reference, features(still)) > 1.3 * far[0]
    one_mode = other[:1] + 0.01 * noise
    assert frechet(reference, features(one_mode)) > 3 * far[0]
