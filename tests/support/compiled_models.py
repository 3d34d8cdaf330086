"""What `test_compilation.py` looks at, in a process of its own: the type checks of the tests cannot be compiled."""

import json
import sys
from unittest import mock

import torch
from hydra_runs import QUICK, run
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from perceiver.adapters.points import Points
from perceiver.decoders.pooled import PooledHead
from perceiver.encoders.encoder import Encoder
from perceiver.model import Perceiver
from perceiver.run.configuration.compilation import compile_model
from perceiver.tokens.positions import Fourier


def model() -> Perceiver:
    torch.manual_seed(0)
    adapter = Points(point_channels=3, position=Fourier(num_bands=4, resolution=(8, 8, 8)))
    encoder = Encoder(
        token_channels=adapter.channels, num_latents=4, latent_channels=16, num_self_heads=2, num_blocks=2,
        num_layers_per_block=2, share_blocks=False, share_first_block=False,
    )  # fmt: skip
    return Perceiver(adapters={"points": adapter}, encoder=encoder, head=PooledHead(latent_channels=16, num_classes=3))


def compare(what: str) -> dict[str, object]:
    """A compiled model beside the plain one, over batches of several sizes; the gradients of the last."""
    counter = CompileCounterWithBackend("aot_eager")
    plain, compiled = model(), model()
    # Not Inductor, which takes seconds for each; what is compiled is the same.
    compile_with = nn.Module.compile
    with mock.patch.object(nn.Module, "compile", lambda self: compile_with(self, backend=counter)):
        compile_model(compiled, what)
    outputs = 0.0
    for batch, points in ((3, 10), (5, 7), (2, 30), (4, 11)):
        x = torch.randn(batch, points, 3)
        pair = [one({"points": x}) for one in (plain, compiled)]
        outputs = max(outputs, float((pair[0] - pair[1]).abs().max()))
    for out in pair:
        out.square().sum().backward()
    expected = dict(plain.named_parameters())
    return {
        "compilations": counter.frame_count,
        "outputs": outputs,
        "gradients": max(float((p.grad - expected[name].grad).abs().max()) for name, p in compiled.named_parameters()),  # type: ignore[operator]
        "names": list(compiled.state_dict()) == list(plain.state_dict()),
    }


if __name__ == "__main__":
    found = {what: compare(what) for what in ("layers", "model")}
    code, _, err = run(
        "compile=layers", *QUICK, "data.num_workers=0", "callbacks.samples=null", "callbacks.attention=null",
        "trainer.limit_val_batches=1", "trainer.limit_test_batches=1",  # of one size: Inductor takes seconds for each
        "trainer.num_sanity_val_steps=0", f"hydra.run.dir={sys.argv[1]}",
    )  # fmt: skip
    sys.stdout.write(json.dumps({**found, "run": {"code": code, "err": err}}) + "\n")
