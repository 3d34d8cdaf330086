"""Data sets of the library `datasets`, whose rows are those of a manifest and whose types say what columns become."""

import itertools
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from perceiver.data.hf.backend import datasets
from perceiver.data.hf.choice import Choice, chosen
from perceiver.data.hf.features import Plan, class_names, flattened, planned, sampling_rate
from perceiver.data.hf.opening import Opened, open_data_set, part_of, with_languages
from perceiver.data.hf.streaming import RowReader, RowStream, StreamedRows, shuffled, table_of
from perceiver.data.manifest.columns import natural
from perceiver.data.manifest.formats.parts import joined_columns
from perceiver.data.manifest.formats.table_file import TableFile
from perceiver.data.manifest.modalities import ManifestModality, parse_modalities
from perceiver.data.manifest.module import LABEL, Manifest
from perceiver.data.manifest.paths import EnclosedFolder, Folder
from perceiver.data.manifest.rows import ManifestRows, RowIds
from perceiver.data.manifest.table import MAX_ROW_GROUP_BYTES, ManifestTable
from perceiver.data.manifest.targets import AUTO, ClassColumn, target_columns
from perceiver.runtime.process_rank import process_rank
from perceiver.runtime.user_paths import expanded
from perceiver.targets.classes import classes_target

log = logging.getLogger(__name__)

_SPLIT = "(split)"
"""Column of the splits of the data set, which no column of its own is called."""


class HuggingFace(Manifest):
    """Trains on a data set of the library `datasets`: a name on the Hugging Face Hub, or a local folder.

    Its columns become modalities and the target by their types: images, sound and text are modalities, numbers are a table,
    lists of numbers are time series, and a column of classes is the target. The log has a line per column. Rows are read as
    those of `perceiver.data.Manifest`, with the same readers and limits; no loading script is run, and paths in rows do not
    leave the folder of the data set.

    Args:
        path: a local folder of Parquet or Arrow files, of `save_to_disk`, or of images or sound; one such file; or a name on
            the Hub. `~` and `$VARIABLE` are expanded.
        name: configuration on the Hub; of a local folder, a folder in it.
        revision: commit, branch or tag on the Hub.
        split: rows to use: a split of the data set, `train[:10%]`, of which validation and test rows are cut, or a mapping
            `{train: train, val: validation_matched}`. None: the splits named train, validation and test; an absent one is
            cut from train.
        streaming: read training and test rows one after the other, for data sets that are larger than the disk.
        modalities: see `Manifest`; None: by the types of the columns, or those of a stored spec.
        target: column or columns of the target. None: by the types, or as in a stored spec.
        target_kind, target_tokenizer, target_vocabulary_size, target_max_length, target_truncate: see `Manifest`.
        label_separator: see `Manifest`.
        id: column of ids. "auto": the column `id`, if it exists; rows are numbered if its ids begin again in each split.
            None: rows are numbered from 1.
        root: folder that paths in rows do not leave. None: the folder of the data set, or the cache of the library.
        image_size, image_channels, audio_channels, max_seconds: see `Manifest`.
        sample_rate: in hertz. None: that of the column, or 16000.
        validation_fraction, test_fraction, split_seed: how absent splits are cut; test rows also if they are not needed now,
            so that a later test has rows that were not trained on.
        group, folds, fold: see `Manifest`; not with `streaming`.
        on_bad_row, check_files, max_row_group_bytes, needs_test: see `Manifest`.
        cache: folder for what the library downloads and prepares. None: that of the library.
        first_rows: with `streaming`, number of training rows for statistics and vocabularies, and most validation rows.
        shuffle_buffer: with `streaming`, number of rows from which the next training row is drawn.
        rows_per_epoch: with `streaming`, training rows per epoch. None: all, if the data set states how many.
        shuffle_seed: with `streaming`, seed of the order.

    Raises:
        FileNotFoundError: there is no such folder or name, or the Hub cannot be reached; the message says what to download.
        ImportError: `datasets` is not installed.
        BadRowError: a row cannot be used; the message names file, row and column.
        ValueError: a loading script, a damaged file, an unknown setting, column or split.
    """

    def __init__(
        self,
        *,
        path: str | os.PathLike[str],
        name: str | None = None,
        revision: str | None = None,
        split: str | Mapping[str, str] | None = None,
        streaming: bool = False,
        modalities: Mapping[str, Any] | None = None,
        target: str | Sequence[str] | None = None,
        target_kind: str = AUTO,
        target_tokenizer: str = "bytes",
        target_vocabulary_size: int = 4000,
        target_max_length: int = 256,
        target_truncate: bool = False,
        label_separator: str | None = None,
        id: str | None = AUTO,  # noqa: A002  (the name of the setting)
        root: str | os.PathLike[str] | None = None,
        image_size: Sequence[int] = (64, 64),
        image_channels: int = 3,
        sample_rate: int | None = None,
        audio_channels: int = 1,
        max_seconds: float | None = 10.0,
        validation_fraction: float = 0.15,
        test_fraction: float = 0.15,
        split_seed: int = 0,
        group: str | None = None,
        folds: int | None = None,
        fold: int | None = None,
        on_bad_row: str = "error",
        check_files: bool = True,
        max_row_group_bytes: int = MAX_ROW_GROUP_BYTES,
        cache: str | os.PathLike[str] | None = None,
        first_rows: int = 2000,
        shuffle_buffer: int = 1000,
        rows_per_epoch: int | None = None,
        shuffle_seed: int = 0,
        needs_test: bool = True,
    ) -> None:
        place = expanded(path, setting="data.path")
        if streaming and (group is not None or folds is not None):
            setting = "folds" if group is None else "group"
            raise ValueError(f"data.{setting}: expected null with data.streaming, which draws rows in order.")
        super().__init__(
            manifest=place,
            modalities=modalities,
            target=LABEL if target is None else target,
            target_kind=target_kind,
            target_tokenizer=target_tokenizer,
            target_vocabulary_size=target_vocabulary_size,
            target_max_length=target_max_length,
            target_truncate=target_truncate,
            label_separator=label_separator,
            id=id,
            split=None,
            root=root,
            image_size=image_size,
            image_channels=image_channels,
            sample_rate=16000 if sample_rate is None else sample_rate,
            audio_channels=audio_channels,
            max_seconds=max_seconds,
            validation_fraction=validation_fraction,
            test_fraction=test_fraction,
            split_seed=split_seed,
            group=group,
            folds=folds,
            fold=fold,
            on_bad_row=on_bad_row,
            check_files=check_files,
            max_row_group_bytes=max_row_group_bytes,
            needs_test=needs_test,
        )
        counts = {"first_rows": first_rows, "shuffle_buffer": shuffle_buffer, "rows_per_epoch": rows_per_epoch}
        for setting, value in counts.items():
            if value is not None and value < 1:
                raise ValueError(f"data.{setting}: expected 1 or more, got {value}.")
        self.path = place
        self.name = name
        self.revision = revision
        self.chosen = split
        self.streaming = streaming
        self.cache = None if cache is None else expanded(cache, setting="data.cache")
        self.first_rows = first_rows
        self.shuffle_buffer = shuffle_buffer
        self.rows_per_epoch = rows_per_epoch
        self.shuffle_seed = shuffle_seed
        self._target_given = target
        self._rate_given = sample_rate is not None
        self._settings = modalities
        self._root_given = None if root is None else self.root
        self._opened: Opened | None = None
        self._choice: Choice | None = None
        self._streams: dict[str, Any] = {}
        self._whole: list[Any] = []
        self._first: ManifestRows | None = None
        self._cut = 0
        self._numbered = False

    def take(self, stored: Mapping[str, Any]) -> None:
        """Adopt a stored spec; see `Manifest.take`. It also says which columns are used."""
        if self._settings is None:
            self._asked = None
        super().take(stored)

    def prescribe(self, facts: Mapping[str, Mapping[str, Any]]) -> None:
        """Adopt entries of the spec that a network requires; see `Manifest.prescribe`."""
        self._columns()  # the types of the columns name the modalities
        super().prescribe(facts)

    def read_training(self) -> tuple[Any, ManifestRows]:
        """Return the training rows, a stream with `streaming`, and the validation rows; the spec is learned here."""
        new = self.spec is None
        training, validation = super().read_training()
        if new and self.spec is not None:
            # Prediction on another data set finds the target by name.
            self.spec["target"].setdefault("columns", list(self._targets.columns))
        if not self.streaming:
            return training, validation
        self._first = training
        return self._stream(), validation

    def unaltered(self, training: Any) -> Any:
        """Return the training rows; of a stream, the first part: repeating the same batches requires random access."""
        return self._first if self.streaming else training

    def read_test(self) -> Any:
        """Return the test rows, one after the other with `streaming`."""
        if not self.streaming:
            return super().read_test()
        if "test" not in self._parts():
            raise ValueError(f"data.split: {self.path} has no test rows.")
        return StreamedRows([self._parts()["test"]], read=self._reader("test"))

    def read_prediction(self) -> Any:
        """Return all rows of the chosen splits, without targets."""
        if not self.streaming:
            return super().read_prediction()
        self._columns()
        return StreamedRows(self._whole, read=self._reader("all splits", targets=False))

    def _parts(self) -> dict[str, Any]:
        """Return the stream of each split."""
        self._columns()
        return self._streams

    def _read(self) -> ManifestTable:
        opened = open_data_set(
            self.path,
            name=self.name,
            revision=self.revision,
            streaming=self.streaming,
            cache=self.cache,
            max_row_group_bytes=self.max_row_group_bytes,
        )
        choice = chosen(self.chosen, lengths=dict.fromkeys(opened.lengths) if self.streaming else opened.lengths)
        self._opened, self._choice = opened, choice
        if choice.unused:
            self._tell("%s: splits that are not used: %s; name them in data.split.", self.path, ", ".join(choice.unused))
        if self.streaming:
            parts = self._first_parts(opened, choice)
        else:
            parts = {
                split: [
                    with_languages(file, opened.features)
                    for piece, start, end in pieces
                    for file in part_of(opened.splits[piece], start, end)
                ]
                for split, pieces in choice.pieces.items()
            }
        table = _joined(self.path, parts, divided=choice.divided or self.streaming)
        self._cuts_test = not self.streaming
        self.split = _SPLIT if _SPLIT in table.columns else None
        self._numbered = self.id == AUTO and self.split is not None and _ids_restart(table)
        if self._numbered:
            self._tell("%s: rows are numbered, since the ids in the column 'id' begin again in each split.", self.path)
        if self.spec is None:
            self._plan(opened, table)
        return table

    def _plan(self, opened: Opened, table: ManifestTable) -> None:
        """Choose modalities and target by the types of the columns, and log a line per column."""
        columns = flattened(opened.features)
        ids = {name: "ids" for name in (self.id, "id" if self.id == AUTO else None) if name in columns}
        ids |= {self.group: "groups"} if self.group in columns else {}
        empty = [name for name, column in table.columns.items() if column.null_count == len(table)]
        plan: Plan = planned(
            opened.features,
            modalities=None if self._asked is None else {one.name: one.columns for one in self._asked},
            target=self._target_given,
            target_kind=self.target_kind,
            ignored=dict.fromkeys(empty, "ignored: empty in all rows") | ids,
        )
        if self._asked is None:
            self._asked = parse_modalities(plan.modalities, defaults=self._defaults)
        self._asked = [self._at_own_rate(modality, columns) for modality in self._asked]
        self._targets = target_columns(
            plan.target_kind, plan.target, separator=self.label_separator, decimal=None, thousands=None, text=self._text
        )
        names = class_names(columns.get(plan.target)) if isinstance(plan.target, str) else None
        if self.streaming and names and plan.target_kind == "classes":
            self._targets = _DeclaredClasses([str(plan.target)], names)
        self._tell("%s: %d rows%s", self.path, len(table), " in the first part" if self.streaming else "")
        for line in plan.lines:
            self._tell("  %s", line)

    def _at_own_rate(self, modality: ManifestModality, columns: Mapping[str, Any]) -> ManifestModality:
        """Return a modality of sound at the rate that its column states, unless the user gives one."""
        settings = (self._settings or {}).get(modality.name)
        given = self._rate_given or (isinstance(settings, Mapping) and "sample_rate" in settings)
        rate = sampling_rate(columns.get(modality.columns[0])) if modality.kind == "audio" else None
        return modality if given or rate is None else replace(modality, spec={**modality.spec, "sample_rate": rate})

    def _first_parts(self, opened: Opened, choice: Choice) -> dict[str, list[TableFile]]:
        """Cut absent splits from the stream of training rows, and return the first rows of each split as columns."""
        streams = {split: opened.splits[pieces[0][0]] for split, pieces in choice.pieces.items()}
        length = opened.lengths[choice.pieces["train"][0][0]] if "train" in streams else None
        some = self.first_rows if length is None else min(self.first_rows, length)
        wanted = {"val": self.validation_fraction, "test": self.test_fraction}
        absent = {split: max(1, round(share * some)) for split, share in wanted.items() if share and split not in streams}
        self._whole = list(streams.values())
        self._cut = sum(absent.values()) if "train" in streams else 0
        # For statistics and cuts: the rows of many data sets are sorted by class.
        mixed: Any = (
            shuffled(streams["train"], seed=self.split_seed, buffer=self.shuffle_buffer) if "train" in streams else None
        )
        for split, count in absent.items() if mixed is not None else ():
            streams[split], mixed = mixed.take(count), mixed.skip(count)
            self._tell("%s: %d rows are cut from train for %s.", self.path, count, split)
        if self._cut:
            streams["train"] = mixed
        self._streams = streams
        parts = {}
        for split in ("train", "val", "test"):
            stream = mixed if split == "train" else streams.get(split)
            rows = [] if stream is None else list(itertools.islice(iter(stream), self.first_rows))
            if rows:
                parts[split] = [table_of(rows, features=opened.features, path=Path(f"{self.path} [{split}]"))]
        return parts

    def _stream(self) -> RowStream:
        """Return the stream of training rows."""
        assert self._opened is not None
        assert self._choice is not None
        count = self.rows_per_epoch
        if count is None:
            length = self._opened.lengths[self._choice.pieces["train"][0][0]]
            if length is None:
                raise ValueError(
                    f"data.rows_per_epoch: expected the number of training rows per epoch, since {self.path} does not state "
                    "how many rows it has; got null."
                )
            count = length - self._cut
        return RowStream(
            self._streams["train"],
            read=self._reader("train", training=True),
            rows_per_epoch=count,
            buffer=self.shuffle_buffer,
            seed=self.shuffle_seed,
            cut=self._cut > 0,
        )

    def _reader(self, split: str, *, training: bool = False, targets: bool = True) -> RowReader:
        self._columns()
        if self.spec is None:
            raise RuntimeError('reading needs a spec: set data.spec to the spec of a checkpoint, or call setup("fit").')
        assert self._opened is not None
        return RowReader(
            features=self._opened.features,
            path=Path(f"{self.path} [{split}]"),
            modalities=self._modalities(),
            specs=self.reading_specs(),
            folder=self._folder(),
            # The ids are unique in each split, but prediction reads all.
            id=None if self._numbered and not targets else self._column(self.id, "id"),
            targets=self._targets if targets else None,
            target=self._known_spec()["target"],
            skip=self._bad.skip,
            training=training,
        )

    def _ids(self) -> RowIds:
        return RowIds(table=self._columns(), column=None) if self._numbered else super()._ids()

    def _folder(self) -> Folder:
        if self._root_given is not None:
            return EnclosedFolder(path=self._root_given)
        folder = None if self._opened is None else self._opened.folder
        if folder is not None:
            return EnclosedFolder(path=folder)
        config = datasets().config
        caches = [config.HF_DATASETS_CACHE, config.HF_CACHE_HOME, *([] if self.cache is None else [self.cache])]
        return EnclosedFolder(path=Path(caches[0]), others=[Path(one) for one in caches])

    def _tell(self, message: str, *values: Any) -> None:
        if process_rank() == 0:
            log.info(message, *values)


class _DeclaredClasses(ClassColumn):
    """A class per row of a stream, among those that the data set declares: its first rows may lack some.

    Args:
        columns: the single column of classes.
        declared: names of all classes.
    """

    def __init__(self, columns: Sequence[str], declared: Sequence[str]) -> None:
        super().__init__(columns)
        self.declared = sorted(declared, key=natural)

    def learned(self, table: ManifestTable, rows: Sequence[int]) -> dict[str, Any]:
        """Return all names in order, and the number of the first rows per class."""
        found = Counter(self.strata(table, rows))
        counts = [max(1, found[name]) for name in self.declared]
        return {"target": classes_target(names=self.declared, counts=counts), "num_classes": len(self.declared)}


def _ids_restart(table: ManifestTable) -> bool:
    """Return whether the ids of each split are unique, but some occur in several splits."""
    ids = table.columns.get("id")
    if ids is None or pa.types.is_nested(ids.type):
        return False
    rows = pa.table({"id": ids, _SPLIT: table.columns[_SPLIT]})
    counts = rows.group_by(_SPLIT).aggregate([("id", "count"), ("id", "count_distinct")])
    given, unique = pc.sum(counts["id_count"]).as_py(), pc.sum(counts["id_count_distinct"]).as_py()
    return bool(given == unique and pc.count_distinct(ids).as_py() < given)


def _joined(path: Path, parts: Mapping[str, Sequence[TableFile]], *, divided: bool) -> ManifestTable:
    """Return the rows of all splits; if they are divided, with a column of splits."""
    files = [file for own in parts.values() for file in own]
    if sum(map(len, files)) == 0:
        raise ValueError(f"data.path: {path} has no rows in the chosen splits.")
    columns = dict(files[0].columns) if len(files) == 1 else joined_columns(files)
    if divided:
        names = [pa.repeat(split, len(file)) for split, own in parts.items() for file in own]
        columns[_SPLIT] = pa.chunked_array(names)
    return ManifestTable(path=path, columns=columns, parts=files)
