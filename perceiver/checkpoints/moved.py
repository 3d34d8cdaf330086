"""Present locations of modules and classes of earlier versions, so that old checkpoints and YAML files keep working."""

from __future__ import annotations

MOVED = {
    # within 0.2
    "perceiver.autoregressive": "perceiver.encoders.autoregressive",
    "perceiver.encoder": "perceiver.encoders.encoder",
    "perceiver.fusion": "perceiver.encoders.fusion",
    "perceiver.interface": "perceiver.encoders.interface",
    "perceiver.objectives.contrastive": "perceiver.objectives.self_supervised.contrastive",
    "perceiver.objectives.criterion": "perceiver.objectives.supervised.criterion",
    "perceiver.objectives.dense": "perceiver.objectives.supervised.dense",
    "perceiver.objectives.fields": "perceiver.objectives.supervised.fields",
    "perceiver.objectives.flow_matching": "perceiver.objectives.generative.flow_matching",
    "perceiver.objectives.judged_samples": "perceiver.objectives.generative.judged_samples",
    "perceiver.objectives.masked_autoencoding": "perceiver.objectives.self_supervised.masked_autoencoding",
    "perceiver.objectives.masked_tokens": "perceiver.objectives.self_supervised.masked_tokens",
    "perceiver.objectives.multimodal_autoencoding": "perceiver.objectives.self_supervised.multimodal_autoencoding",
    "perceiver.objectives.next_tokens": "perceiver.objectives.self_supervised.next_tokens",
    "perceiver.objectives.supervised": "perceiver.objectives.supervised.supervised",
    "perceiver.objectives.text_generation": "perceiver.objectives.generative.text_generation",
    "perceiver.plots.attention": "perceiver.plots.attention.maps",
    "perceiver.plots.attention_modalities": "perceiver.plots.attention.modalities",
    "perceiver.plots.autoencoding": "perceiver.plots.self_supervised.autoencoding",
    "perceiver.plots.dense": "perceiver.plots.supervised.dense",
    "perceiver.plots.filled_texts": "perceiver.plots.self_supervised.filled_texts",
    "perceiver.plots.generated": "perceiver.plots.generative.generated",
    "perceiver.plots.reconstruction": "perceiver.plots.self_supervised.reconstruction",
    "perceiver.plots.retrieval": "perceiver.plots.self_supervised.retrieval",
    "perceiver.plots.samples": "perceiver.plots.supervised.samples",
    "perceiver.plots.words": "perceiver.plots.generative.words",
    "perceiver.positions": "perceiver.tokens.positions",
    # 0.1 to 0.2
    "perceiver.adapters.audio.LogMel": "perceiver.adapters.log_mel.LogMel",
    "perceiver.attention.linear": "perceiver.attention.kernels.linear",
    "perceiver.data.audio_augmentation": "perceiver.data.augmentation.audio",
    "perceiver.data.audio_folder": "perceiver.data.folders.audio",
    "perceiver.data.augmentation": "perceiver.data.augmentation.images",
    "perceiver.data.cifar": "perceiver.data.datasets.torchvision_images",
    "perceiver.data.digit_points": "perceiver.data.synthetic.digit_points",
    "perceiver.data.fashion_mnist": "perceiver.data.datasets.torchvision_images",
    "perceiver.data.image_corruption": "perceiver.data.augmentation.corruption",
    "perceiver.data.image_folder": "perceiver.data.folders.images",
    "perceiver.data.imagenet": "perceiver.data.datasets.imagenet",
    "perceiver.data.mixing": "perceiver.data.augmentation.mixing",
    "perceiver.data.modelnet40": "perceiver.data.datasets.modelnet40",
    "perceiver.data.point_augmentation": "perceiver.data.augmentation.points",
    "perceiver.data.speech_commands": "perceiver.data.datasets.speech_commands",
    "perceiver.data.spoken_digits": "perceiver.data.datasets.spoken_digits",
    "perceiver.decoders.ClassificationDecoder": "perceiver.decoders.classification.ClassificationDecoder",
    "perceiver.decoders.per_class": "perceiver.decoders.classification",
    "perceiver.heads": "perceiver.decoders.pooled",
    "perceiver.masking": "perceiver.masking.random",
    "perceiver.modality_dropout": "perceiver.masking.modality_dropout",
    "perceiver.run.attention": "perceiver.run.reporting.attention_by_modality",
    "perceiver.run.best_job": "perceiver.run.reporting.best_job",
    "perceiver.run.figures": "perceiver.run.reporting.figures",
    "perceiver.run.figures.EvaluationFigures": "perceiver.run.reporting.figures.Figures",
    "perceiver.run.last_checkpoint": "perceiver.run.resuming.last_checkpoint",
    "perceiver.run.progress": "perceiver.run.reporting.progress",
    "perceiver.run.sharded": "perceiver.run.processes.fully_sharded",
    "perceiver.tasks.ClassificationTask": "perceiver.objectives.classification",
    "perceiver.tasks.DenseRegressionTask": "perceiver.objectives.dense_regression",
    "perceiver.tasks.MaskedAutoencodingTask": "perceiver.objectives.MaskedAutoencoding",
    "perceiver.tasks.MaskedTokensTask": "perceiver.objectives.MaskedTokenModelling",
    "perceiver.tasks.MultilabelTask": "perceiver.objectives.multilabel",
    "perceiver.tasks.MultimodalAutoencodingTask": "perceiver.objectives.MultimodalAutoencoding",
    "perceiver.tasks.RegressionTask": "perceiver.objectives.regression",
    "perceiver.tasks.SegmentationTask": "perceiver.objectives.segmentation",
    "perceiver.tasks.classification.ClassificationTask": "perceiver.objectives.classification",
    "perceiver.tasks.dense_losses": "perceiver.objectives",
    "perceiver.tasks.dense_regression.DenseRegressionTask": "perceiver.objectives.dense_regression",
    "perceiver.tasks.masked_autoencoding.MaskedAutoencodingTask": "perceiver.objectives.MaskedAutoencoding",
    "perceiver.tasks.masked_tokens.MaskedTokensTask": "perceiver.objectives.MaskedTokenModelling",
    "perceiver.tasks.multilabel.MultilabelTask": "perceiver.objectives.multilabel",
    "perceiver.tasks.multimodal_autoencoding.MultimodalAutoencodingTask": "perceiver.objectives.MultimodalAutoencoding",
    "perceiver.tasks.regression.RegressionTask": "perceiver.objectives.regression",
    "perceiver.tasks.schedules.flat_cosine": "perceiver.training.schedules.flat_cosine",
    "perceiver.tasks.schedules.step_decay": "perceiver.training.schedules.step_decay",
    "perceiver.tasks.schedules.warmup_cosine": "perceiver.training.schedules.warmup_cosine",
    "perceiver.tasks.segmentation.SegmentationTask": "perceiver.objectives.segmentation",
    "perceiver.token_masking": "perceiver.masking.text",
}
"""From the former name of a module, or of a class or function in it, to the present name."""


def present_name(name: str) -> str:
    """Return the present dotted name of a class or function that an earlier version may have moved; others are unchanged.

    >>> present_name("perceiver.heads.PooledHead")
    'perceiver.decoders.pooled.PooledHead'
    """
    if name in MOVED:
        return MOVED[name]
    module, _, cls = name.rpartition(".")
    # Only classes: `perceiver.data.augmentation.images` is a module of the present layout.
    return f"{MOVED[module]}.{cls}" if module in MOVED and cls[:1].isupper() else name
