from __future__ import annotations

import numpy as np
import pytest
import torch

from sagan_deploy.training.losses import discriminator_loss, generator_loss

_REAL = np.array([-2.0, -0.5, 0.0, 0.3, 0.99, 1.0, 4.0])
_FAKE = np.array([3.0, 0.5, 0.0, -0.7, -1.0, -1.2])


def test_the_hinge_loss_is_the_papers_formula():
    # arXiv 1805.08318, eq. (4): L_D = -E[min(0, -1 + D(x))] - E[min(0, -1 - D(G(z)))], L_G = -E[D(G(z))]
    expected = -np.minimum(0, -1 + _REAL).mean() - np.minimum(0, -1 - _FAKE).mean()
    loss = discriminator_loss(torch.tensor(_REAL), torch.tensor(_FAKE))
    assert float(loss) == pytest.approx(expected, rel=1e-12)
    assert float(generator_loss(torch.tensor(_FAKE))) == pytest.approx(-_FAKE.mean(), rel=1e-12)


def test_scores_beyond_the_margin_get_no_gradient():
    real, fake = torch.tensor(_REAL, requires_grad=True), torch.tensor(_FAKE, requires_grad=True)
    discriminator_loss(real, fake).backward()
    assert np.allclose(real.grad.numpy(), np.where(_REAL < 1, -1 / len(_REAL), 0))
    assert np.allclose(fake.grad.numpy(), np.where(_FAKE > -1, 1 / len(_FAKE), 0))
