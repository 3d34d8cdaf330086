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

from perceiver.objectives.classes import classification
from perceiver.objectives.contrastive import Contrastive
from perceiver.objectives.criterion import Criterion
from perceiver.objectives.dense import Dense
from perceiver.objectives.fields import EndPointError, dense_regression
from perceiver.objectives.flow_matching import FlowMatching
from perceiver.objectives.judged_samples import JudgedSamples
from perceiver.objectives.judges import CanvasJudge, ClassJudge, ImageJudge, Judgement
from perceiver.objectives.labels import multilabel
from perceiver.objectives.masked_autoencoding import MaskedAutoencoding
from perceiver.objectives.masked_tokens import MaskedTokenModelling
from perceiver.objectives.metrics.judging import Judge
from perceiver.objectives.multimodal_autoencoding import MultimodalAutoencoding
from perceiver.objectives.next_tokens import NextTokenPrediction
from perceiver.objectives.objective import Objective
from perceiver.objectives.pixel_classes import segmentation
from perceiver.objectives.supervised import Supervised
from perceiver.objectives.text_generation import TextGeneration
from perceiver.objectives.values import regression

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
