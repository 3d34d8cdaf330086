"""Training objectives in plain PyTorch: checks, losses and metrics, with the model as an argument.

`classification`, `multilabel` and `regression` make a `Supervised` objective, `segmentation` and `dense_regression` a
`Dense` one; the others need no targets. `perceiver.training.Task` wraps one for Lightning. A plain loop takes ten lines:

```python
objective = classification(num_classes=10, label_smoothing=0.1)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
for epoch in range(10):
    model.train()
    for batch in training_loader:
        loss = objective.loss(model, objective.check(model, batch))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
metrics = objective.metrics(model.eval())
with torch.no_grad():
    for number, batch in enumerate(validation_loader):
        objective.evaluate(model, objective.check(model, batch), metrics, number=number)
print(objective.results(metrics))  # {"loss": tensor(…), "accuracy": tensor(…)}
```
"""

from perceiver.objectives.generative.flow_matching import FlowMatching
from perceiver.objectives.generative.judged_samples import JudgedSamples
from perceiver.objectives.generative.text_generation import TextGeneration
from perceiver.objectives.judges import CanvasJudge, ClassJudge, ImageJudge, Judgement
from perceiver.objectives.metrics.judging import Judge
from perceiver.objectives.objective import Objective
from perceiver.objectives.self_supervised.contrastive import Contrastive
from perceiver.objectives.self_supervised.masked_autoencoding import MaskedAutoencoding
from perceiver.objectives.self_supervised.masked_tokens import MaskedTokenModelling
from perceiver.objectives.self_supervised.multimodal_autoencoding import MultimodalAutoencoding
from perceiver.objectives.self_supervised.next_tokens import NextTokenPrediction
from perceiver.objectives.supervised.classes import classification
from perceiver.objectives.supervised.criterion import Criterion
from perceiver.objectives.supervised.dense import Dense
from perceiver.objectives.supervised.fields import EndPointError, dense_regression
from perceiver.objectives.supervised.labels import multilabel
from perceiver.objectives.supervised.pixel_classes import segmentation
from perceiver.objectives.supervised.supervised import Supervised
from perceiver.objectives.supervised.values import regression

__all__ = [
    "CanvasJudge",
    "ClassJudge",
    "Contrastive",
    "Criterion",
    "Dense",
    "EndPointError",
    "FlowMatching",
    "ImageJudge",
    "Judge",
    "JudgedSamples",
    "Judgement",
    "MaskedAutoencoding",
    "MaskedTokenModelling",
    "MultimodalAutoencoding",
    "NextTokenPrediction",
    "Objective",
    "Supervised",
    "TextGeneration",
    "classification",
    "dense_regression",
    "multilabel",
    "regression",
    "segmentation",
]
