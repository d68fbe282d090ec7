"""Ensemble distribution distillation against one proxy Dirichlet distribution for each image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from distill_ray._lazy import LazyModule
from distill_ray.methods.method import METHODS, Method, Student, Teachers
from distill_ray.settings import Doc

if TYPE_CHECKING:
    from torch import Tensor, nn

    from distill_ray.augmentation.augmentation import Augmentation, Batch
    from distill_ray.methods import losses, proxy_dirichlet
else:
    losses = LazyModule("distill_ray.methods.losses")
    proxy_dirichlet = LazyModule("distill_ray.methods.proxy_dirichlet")


@METHODS.register("proxy-endd")
@dataclass(frozen=True, kw_only=True)
class ProxyEnDD(Method):
    r"""`endd` with one target for each image, the Dirichlet distribution that stands for the
    members; for many classes.

    ```math
    L = \sum_c \bar q_c \big[ \psi(a_0) - \psi(a_c) \big] - \frac{1}{b_0} H\big[ \mathrm{Dir}(a)
    \big]
    \qquad a_c = e^{z_c} + 1 \quad a_0 = \sum_c a_c
    ```

    ```math
    \tilde b = \frac{K - 1}{ 2 \sum_c \bar q_c \big( \ln \bar q_c - \frac{1}{N} \sum_n \ln q_{nc}
    \big) }
    \qquad b_0 = \tilde b + K \qquad b_c = \bar q_c \, \tilde b + 1
    ```

    - `z_c`: the student's logit of class c of K; `a_c`: the concentrations of its distribution.
    - `q_nc`: softmax of the logits of teacher n of N, `\bar q`: its mean over teachers; `b_c`: the
      concentrations of the proxy, large where the teachers agree.
    - `ψ`: the digamma function, `H` the differential entropy. Averaged over images. No labels are
      used.

    That is `direction: reverse`, KL(student || proxy) over the precision of the proxy, less a
    constant. The published code divides by b_0, as done here, where the divergence itself has
    `\tilde b`. The gradients of `endd` are largest for classes of low probability; these are not.
    `direction: forward` is KL(proxy || student), which the command in the published README runs;
    its gradients grow with the precision of the proxy, and on digits it stayed at uniform
    predictions.

    The mean of the student's distribution is a_c / a_0, and so the deployed network outputs the
    logarithms of the a_c, `log(1 + exp(z))`.

    Source: Ryabinin, Malinin & Gales 2021, "Scaling ensemble distribution distillation to many
    classes with proxy targets", https://arxiv.org/abs/2105.06987, as coded.

    Example:

    ```yaml
    name: proxies
    teachers: {members: 5, model: wrn-10-1}
    student: {model: wrn-10-1, method: proxy-endd}
    search:
      space:
        lr: {log: [0.003, 0.3]}
        direction: {choice: [reverse, forward]}
    ```
    """

    name = "proxy-endd"
    needs_teachers = True

    direction: Annotated[
        Literal["reverse", "forward"],
        Doc("KL(student || proxy) over the proxy's precision, or KL(proxy || student)"),
    ] = "reverse"

    def check_fit(self, *, model: str, augmentation: Augmentation, teachers: int) -> None:
        """Besides the common rules: two teachers, since a single one is a distribution of zero
        width.
        """
        super().check_fit(model=model, augmentation=augmentation, teachers=teachers)
        if teachers < 2:
            raise ValueError(
                f"method {self.name!r} learns how teachers differ and needs at least 2 of them, "
                f"found {teachers}"
            )

    @property
    def takes_unlabelled(self) -> bool:
        """It needs no label."""
        return True

    def loss(self, student: Student, batch: Batch, teachers: Teachers) -> Mapping[str, Tensor]:
        """The mean over the parts of the batch."""
        divergence = proxy_dirichlet.DIVERGENCES[self.direction]
        terms = []
        for offered in batch.parts:
            part, answers = student.pick(offered, teachers)
            terms.append(divergence(student(part.images), answers))
        return {"loss": losses.average(terms)}

    def deploy(self, student: nn.Module) -> nn.Module:
        """The network with the logarithms of the concentrations for its logits."""
        return proxy_dirichlet.Concentrations(student)

    def deployed_like(self, network: nn.Module) -> nn.Module:
        return self.deploy(network)
