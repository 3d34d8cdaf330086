"""Your own files listed in a manifest: a table with a row per sample and columns for modalities, target, split and id."""

import logging
import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

from torch import Tensor

from perceiver.data.loading.folds import Fold
from perceiver.data.loading.source import Source, stored_kinds
from perceiver.data.manifest.columns import warn_of_unknown_values
from perceiver.data.manifest.formats.parts import folder_of, listed
from perceiver.data.manifest.modalities import ManifestModality, parse_modalities, stored_modality
from perceiver.data.manifest.paths import Folder
from perceiver.data.manifest.rows import (
    BadRows,
    ManifestRows,
    RowIds,
    decodable_rows,
    usable_rows,
)
from perceiver.data.manifest.splits import Splits, split_of, split_rows
from perceiver.data.manifest.statistics import learned_spec
from perceiver.data.manifest.table import MAX_ROW_GROUP_BYTES, ManifestTable, read_table
from perceiver.data.manifest.targets import AUTO, target_columns
from perceiver.data.manifest.targets import KINDS as TARGET_KINDS
from perceiver.data.manifest.text_targets import TextTargets
from perceiver.data.manifest.texts import warn_of_cut_texts
from perceiver.runtime.user_paths import expanded

LABEL = "label"
"""Default column of targets."""

log = logging.getLogger(__name__)


class Manifest(Source):
    """Trains on the rows of CSV, Parquet or JSON files, whose cells are values or paths of files.

    A row may lack any of its modalities (an empty cell), but not all. Cells are decoded per batch, in the loader processes.
    Batches hold `inputs[name]` for each modality, as `perceiver.Collate` makes them, and masks if modalities are missing
    or lengths differ. The spec holds everything that prediction needs, including the columns.

    Args:
        manifest: path of the file; or of several parts with the same columns: a pattern such as `train-*.parquet`, a folder,
            or a list. `~` and `$VARIABLE` are expanded here, in `root` and in `path` of a modality, but never in cells.
        modalities: by name, a kind (image, video, audio, points, text, timeseries) if the column has the same name, or a
            mapping: `{kind: image, column: photo, size: [32, 32]}`, `{kind: table, columns: [age, sex]}`. Paths may be
            patterns of columns: `{kind: image, path: "images/{id}.jpg"}`. The kind may be a `perceiver.modalities.Modality`
            of any installed package: `{kind: my_package.Thermometer}`. None: those of a stored spec.
        target: column of targets. Names of classes and labels are the cells of the training rows. Several columns: values,
            or a column of 0 and 1 for each class or label, whose names are those of the columns.
        target_kind: "classes", a class per row; "labels", any number of labels, separated by `label_separator` or as a
            JSON list, for `task=multilabel`; "values", numbers, for `task=regression`; "text", a text to generate, for
            `task=text_generation`. "auto": as in a stored spec, else classes; of several columns, classes if each row has
            exactly one 1, else labels.
        target_tokenizer: tokenizer of target texts: "bytes", UTF-8 bytes, or "pairs", byte pairs learned from the training
            rows.
        target_vocabulary_size: number of ids of "pairs".
        target_max_length: most ids of a target text, start and end included.
        target_truncate: cut longer target texts instead of refusing their rows.
        decimal, thousands: separators of numbers, such as "," and ".", in targets that are values, and default of table
            modalities. None: detected in each column.
        label_separator: separator of labels in a cell. None: as in a stored spec, else a semicolon.
        delimiter: delimiter of a CSV file. None: detected.
        encoding: encoding of a CSV file.
        header: column names of a CSV file without a header line. None: the first line has them.
        id: column of ids. "auto": the column `id`, if it exists. None: rows are numbered from 1.
        split: column with train, val or test. "auto": the column `split`, if it exists. None: a split stratified by class,
            from `split_seed`.
        root: base of relative paths. None: the folder of the manifest.
        image_size: (height, width) to which images and videos are scaled and cropped.
        image_channels: 3 for colour, 1 for grey.
        sample_rate: in hertz; recordings of another rate are resampled.
        audio_channels: 1 mixes recordings down to mono.
        max_seconds: longer recordings are cut, at a random position in training, otherwise to their beginning. None: no
            limit.
        validation_fraction: share of the non-test rows; used if no split column has validation rows.
        test_fraction: share of the rows; used without a split column.
        split_seed: seed of the split; not the training seed.
        group: column of groups, such as patients or speakers, that are in a single split. None: rows are split one by one.
        folds: number of folds of a cross-validation of all rows but the test rows of a split column. None: no
            cross-validation.
        fold: number of the fold whose rows are the test rows, from 0; validation rows are split off the other folds.
        on_bad_row: "error" stops at the first unusable row. "skip" decodes everything once before training and leaves out
            unusable rows; `skipped` and the log name them.
        check_files: check that all files exist, and read their heads, before training.
        max_row_group_bytes: memory limit of a row group in a Parquet manifest; rows of larger groups cannot be used.
        max_decompressed_bytes: size limit of the content of a compressed file (`.csv.gz`). None: 200 times its size, but at
            least 64 MiB and at most 2 GiB.
        needs_test: whether `prepare` requires test rows.

    Raises:
        FileNotFoundError: the manifest does not exist.
        BadRowError: a row cannot be used; the message names row and column.
        ValueError: a setting or column is unknown, a split has no rows, or there is a single class.
    """

    normalised = True
    defers_normalisation = True

    def __init__(
        self,
        *,
        manifest: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        modalities: Mapping[str, Any] | None = None,
        target: str | Sequence[str] = LABEL,
        target_kind: str = AUTO,
        target_tokenizer: str = "bytes",
        target_vocabulary_size: int = 4000,
        target_max_length: int = 256,
        target_truncate: bool = False,
        decimal: str | None = None,
        thousands: str | None = None,
        label_separator: str | None = None,
        delimiter: str | None = None,
        encoding: str = "utf-8",
        header: Sequence[str] | None = None,
        id: str | None = AUTO,  # noqa: A002  (the name of the setting)
        split: str | None = AUTO,
        root: str | os.PathLike[str] | None = None,
        image_size: Sequence[int] = (64, 64),
        image_channels: int = 3,
        sample_rate: int = 16000,
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
        max_decompressed_bytes: int | None = None,
        needs_test: bool = True,
    ) -> None:
        super().__init__(specs={}, split_seed=split_seed, fold=Fold.chosen(folds=folds, fold=fold))
        if on_bad_row not in ("error", "skip"):
            raise ValueError(f"data.on_bad_row: expected error or skip, got {on_bad_row!r}.")
        if not 0 < validation_fraction < 1:
            raise ValueError(f"data.validation_fraction: expected a share between 0 and 1, got {validation_fraction}.")
        if not 0 <= test_fraction <= 1:
            raise ValueError(f"data.test_fraction: expected a share from 0 to 1, got {test_fraction}.")
        self._places = [expanded(place, setting="data.manifest") for place in listed(manifest)]
        self.root = folder_of(self._places) if root is None else expanded(root, setting="data.root")
        self.manifest = self._places[0] if len(self._places) == 1 else self.root
        self.target = target
        self.target_kind = target_kind
        self.decimal = decimal
        self.thousands = thousands
        self._text = {
            "tokenizer": target_tokenizer,
            "vocabulary_size": target_vocabulary_size,
            "max_length": target_max_length,
            "truncate": target_truncate,
        }
        # This also checks both arguments.
        self._targets = target_columns(
            target_kind, target, separator=label_separator, decimal=decimal, thousands=thousands, text=self._text
        )
        self.label_separator = label_separator
        if delimiter is not None and len(delimiter) != 1:
            raise ValueError(f"data.delimiter: expected one character, or null to detect it, got {delimiter!r}.")
        self.delimiter = delimiter
        self.encoding = encoding
        self.header = header
        self.id = id
        self.split = split
        self.group = group
        self.validation_fraction = validation_fraction
        self.test_fraction = test_fraction
        self.check_files = check_files
        if max_row_group_bytes < 1:
            raise ValueError(f"data.max_row_group_bytes: expected 1 or more, got {max_row_group_bytes}.")
        if max_decompressed_bytes is not None and max_decompressed_bytes < 1:
            raise ValueError(f"data.max_decompressed_bytes: expected 1 or more, or null, got {max_decompressed_bytes}.")
        self.max_row_group_bytes = max_row_group_bytes
        self.max_decompressed_bytes = max_decompressed_bytes
        self.needs_test = needs_test
        picture = {"size": image_size, "channels": image_channels}
        self._defaults = {
            "image": picture,
            "video": picture,
            "audio": {"sample_rate": sample_rate, "channels": audio_channels, "max_seconds": max_seconds},
            "table": {"decimal": decimal, "thousands": thousands},
        }
        self._asked: list[ManifestModality] | None = (
            None if modalities is None else parse_modalities(modalities, defaults=self._defaults)
        )
        self.specs = {modality.name: modality.spec for modality in self._asked or ()}
        self._bad = BadRows(skip=on_bad_row == "skip")
        self._table: ManifestTable | None = None
        self._splits: Splits | None = None
        self._unlabelled: list[tuple[int, str | None, str]] = []
        self._trained = False
        self._cuts_test = False

    @property
    def skipped(self) -> list[str]:
        """The rows left out so far, with reasons."""
        return list(self._bad.skipped.values())

    @property
    def left_out(self) -> list[str]:
        """See `Source.left_out`."""
        return self.skipped

    def prepare(self) -> None:
        """Read the manifest and check its columns."""
        self._check_columns(self._columns())

    @property
    def has_test(self) -> bool:
        """Whether there are test rows."""
        return bool(self._split().test)

    def take(self, stored: Mapping[str, Any]) -> None:
        """Adopt a stored spec: its columns, kinds, sizes, rates, statistics and classes override the arguments.

        Raises:
            ValueError: the spec lacks these modalities, or has other kinds.
        """
        kind = str((stored.get("target") or {}).get("kind"))
        if kind not in TARGET_KINDS or self.target_kind not in (AUTO, kind):
            own = ", ".join(TARGET_KINDS) if self.target_kind == AUTO else self.target_kind
            raise ValueError(f"spec.target.kind: Manifest has {own}, but the stored spec has {kind!r}.")
        target = stored["target"]
        columns = self.target
        if kind == "values" and self.target_kind == AUTO:
            columns = [str(name) for name in target["names"]]  # as set in training
        elif kind != "values" and target.get("columns") and (columns == LABEL or not isinstance(columns, str)):
            columns = [str(name) for name in target["columns"]]
        known = stored_kinds(stored)
        for modality in self._asked or ():
            if known.get(modality.name) != modality.kind:
                raise ValueError(
                    f"spec.modalities: Manifest has {modality.name!r} of kind {modality.kind}, but the stored spec "
                    f"has {known}. Use the modalities that the checkpoint was trained with, or a subset."
                )
        self._targets = target_columns(
            kind,
            columns,
            separator=target.get("separator") if self.label_separator is None else self.label_separator,
            decimal=self.decimal,
            thousands=self.thousands,
            # Another table may be written in another way, if the user says so.
            written=None if self.decimal or self.thousands else target.get("written"),
            text=self._text,
        )
        self.spec = deepcopy(dict(stored))
        self._splits, self._trained = None, False

    def prescribe(self, facts: Mapping[str, Mapping[str, Any]]) -> None:
        """Adopt entries of the spec that a network requires: they replace settings and measured statistics.

        Raises:
            ValueError: a modality is not among `modalities`, or of another kind.
        """
        asked = self._asked or []
        known = [modality.name for modality in asked]
        for name in facts:
            if name not in known:
                raise ValueError(
                    f"model.adapters.{name}: the data has no modality {name!r}, only {', '.join(known) or 'none'}. Name it "
                    "in data.modalities."
                )
        for modality in asked:
            kind = facts.get(modality.name, {}).get("kind", modality.kind)
            if kind != modality.kind:
                raise ValueError(
                    f"model.adapters.{modality.name}: its network takes the kind {kind}, but "
                    f"data.modalities.{modality.name} is of kind {modality.kind}."
                )
        self.prescribed = {name: dict(entries) for name, entries in facts.items()}
        self._asked = [
            replace(modality, spec={**modality.spec, **self.prescribed.get(modality.name, {})}) for modality in asked
        ]

    def read_training(self) -> tuple[ManifestRows, ManifestRows]:
        """Return the training and validation rows; the spec is learned here, since reading cells requires it."""
        splits = self._split()
        self._report_unlabelled("train", "val", *(["test"] if self.needs_test and self.fold is None else []))
        if not splits.train or not splits.val:
            raise ValueError(
                f"{self.manifest}: expected rows for training and for validation, got {len(splits.train)} and "
                f"{len(splits.val)}; there are {len(self._columns())} rows. Add rows, or change data.split, "
                "data.validation_fraction and data.test_fraction."
            )
        if self.needs_test and not splits.test:
            raise ValueError(f"data.split: {self.manifest} has no test rows; mark some rows as test, or set test=false.")
        if self.spec is None:
            specs = self._learned(splits.train)
            decodable = self._decodable(splits.train, specs)
            if len(decodable) < len(splits.train):
                splits.train = decodable
                specs = self._learned(decodable)
            self.spec = {"modalities": specs, **self._targets.learned(self._columns(), splits.train)}
        else:
            splits.train = self._decodable(splits.train, self._specs())
        splits.val = self._decodable(splits.val, self._specs())
        self._warn_of_cut_texts([*splits.train, *splits.val])
        training, validation = self._labelled(splits.train, training=True), self._labelled(splits.val)
        self._trained = True
        # Report classes that occur only in the test rows before training, not after it.
        splits.test = self._known(splits.test)
        self._bad.tell(total=len(self._columns()))
        return training, validation

    def learn(self, training: ManifestRows) -> dict[str, Any]:
        """Return the spec that `read_training` learned."""
        assert self.spec is not None
        return self.spec

    def _learned(self, rows: list[int]) -> dict[str, Any]:
        return {
            modality.name: {
                **learned_spec(modality, table=self._columns(), rows=rows, folder=self._folder(), bad=self._bad),
                **self.prescribed.get(modality.name, {}),
            }
            for modality in self._modalities()
        }

    def read_test(self) -> ManifestRows:
        """Return the test rows."""
        splits = self._split()
        self._report_unlabelled(*([] if self.fold else ["test"]))
        if not splits.test:
            raise ValueError(f"data.split: {self.manifest} has no test rows; mark some rows as test.")
        alone = not self._trained and self.fold is None
        if alone and self._column(self.split, "split") is None and self.test_fraction < 1:
            log.info(
                "%d of the %d rows of %s are test rows (data.test_fraction=%g); to test on all rows, set "
                "data.test_fraction=1.",
                len(splits.test),
                len(self._columns()),
                self.manifest,
                self.test_fraction,
            )
        self._warn_of_unknown_values(splits.test)
        self._warn_of_cut_texts(splits.test)
        rows = self._labelled(self._decodable(splits.test, self._specs()))
        self._bad.tell(total=len(self._columns()))
        return rows

    def read_prediction(self) -> ManifestRows:
        """Return all rows of all splits, without targets."""
        if self.spec is None:
            raise RuntimeError('prediction needs a spec: set data.spec to the spec of a checkpoint, or call setup("fit").')
        table = self._columns()
        rows = self._decodable(self._usable(range(len(table))), self._specs())
        self._warn_of_unknown_values(rows)
        self._warn_of_cut_texts(rows)
        dataset = self._rows(rows)
        self._bad.tell(total=len(table))
        return dataset

    def _split(self) -> Splits:
        """Return all usable rows by split, found once.

        All rows with targets are split, and unusable ones dropped afterwards: a row keeps its split if another cannot be
        used, or if fewer modalities are.
        """
        if self._splits is None:
            table = self._columns()
            for name in self._targets.columns:
                if name not in table.columns:
                    raise ValueError(self._unknown_column(name, "data.target"))
            usable = set(self._usable(range(len(table))))
            column = self._column(self.split, "split")
            labelled, self._unlabelled = [], []
            for row in range(len(table)):
                if row in table.problems:
                    continue
                problem = self._targets.problem(table, row)
                if not problem:
                    labelled.append(row)
                elif row not in usable:
                    continue
                elif column is None:
                    self._bad.report(row, problem)
                else:
                    # Rows of an unused split may lack a target.
                    self._unlabelled.append((row, split_of(table, row, column), problem))
            splits = split_rows(
                labelled,
                classes=self._targets.strata(table, labelled),
                table=table,
                column=column,
                validation_fraction=self.validation_fraction,
                test_fraction=self.test_fraction,
                seed=self.split_seed,
                bad=self._bad,
                cut_test=self._cuts_test,
                group=self._column(self.group, "group"),
                fold=self.fold,
            )
            self._splits = splits.among(usable)
        return self._splits

    def _report_unlabelled(self, *used: str) -> None:
        for row, split, problem in self._unlabelled:
            if split is None or split in used:
                self._bad.report(row, problem)

    def _usable(self, rows: Sequence[int]) -> list[int]:
        """Return the rows with a unique id, some content, and readable files."""
        table = self._columns()
        self._check_columns(table)
        modalities = self._modalities()
        usable = usable_rows(
            rows, table=table, modalities=modalities, folder=self._folder(), bad=self._bad, check_files=self.check_files
        )
        return self._ids().check(usable, self._bad)

    def _warn_of_unknown_values(self, rows: Sequence[int]) -> None:
        for modality in self._modalities():
            if modality.kind == "table":
                warn_of_unknown_values(self._columns(), rows, spec=self._specs()[modality.name])

    def _warn_of_cut_texts(self, rows: Sequence[int]) -> None:
        for modality in self._modalities():
            if modality.kind == "text" and modality.pattern is None:
                [column] = modality.columns
                warn_of_cut_texts(self._columns(), rows, column=column, spec=self._specs()[modality.name])

    def _known(self, rows: Sequence[int]) -> list[int]:
        """Return the rows whose target is known from training."""
        unknown = self._targets.unknown(self._columns(), rows, self._known_spec()["target"])
        for row, message in unknown.items():
            self._bad.report(row, message)
        return [row for row in rows if row not in unknown]

    def _labelled(self, rows: Sequence[int], *, training: bool = False) -> ManifestRows:
        known = self._known(rows)
        targets = self._targets.values(self._columns(), known, self._known_spec()["target"])
        return self._rows(known, targets=targets, training=training)

    def _rows(
        self,
        rows: Sequence[int],
        *,
        specs: Mapping[str, Any] | None = None,
        targets: Tensor | TextTargets | None = None,
        training: bool = False,
    ) -> ManifestRows:
        if len(rows) == 0:
            skipped = f": {'; '.join(self.skipped[:3])}" if self.skipped else ""
            raise ValueError(f"{self.manifest}: no rows remain; {len(self.skipped)} were skipped{skipped}")
        return ManifestRows(
            table=self._columns(),
            rows=rows,
            modalities=self._modalities(),
            specs=self.reading_specs() if specs is None else specs,
            folder=self._folder(),
            ids=self._ids(),
            targets=targets,
            training=training,
        )

    def _decodable(self, rows: list[int], specs: Mapping[str, Any]) -> list[int]:
        """Return the decodable rows if bad rows are skipped; otherwise all rows, which may fail in a batch."""
        if not self._bad.skip or not rows:
            return rows
        good = decodable_rows(self._rows(rows, specs=specs), num_workers=self.num_workers, bad=self._bad)
        return [rows[index] for index in good]

    def _known_spec(self) -> dict[str, Any]:
        assert self.spec is not None
        return self.spec

    def _specs(self) -> dict[str, Any]:
        modalities: dict[str, Any] = self._known_spec()["modalities"]
        return modalities

    def _modalities(self) -> list[ManifestModality]:
        """Return the requested modalities, else those of the spec; a stored spec gives sizes, rates and columns."""
        if self.spec is None:
            if self._asked is None:
                raise ValueError(
                    "data.modalities: expected modalities, as columns with their kinds, e.g. "
                    "'data.modalities={photo: image, sound: audio}', got none."
                )
            return self._asked
        chosen = list(self.spec["modalities"]) if self._asked is None else [one.name for one in self._asked]
        # Another manifest may use other column names.
        asked = {} if self._asked is None else {one.name: one for one in self._asked}
        return [stored_modality(name, self.spec["modalities"][name], asked=asked.get(name)) for name in chosen]

    def _columns(self) -> ManifestTable:
        if self._table is None:
            self._table = self._read()
        return self._table

    def _read(self) -> ManifestTable:
        """Return the rows of all splits."""
        return read_table(
            self._places,
            delimiter=self.delimiter,
            encoding=self.encoding,
            header=self.header,
            max_row_group_bytes=self.max_row_group_bytes,
            max_decompressed_bytes=self.max_decompressed_bytes,
        )

    def _check_columns(self, table: ManifestTable) -> None:
        if self._asked is None and self.spec is None:
            return  # a stored spec will name them
        for modality in self._modalities():
            for column in modality.columns:
                if column not in table.columns:
                    hint = "" if self.spec is None else " To leave it out, list the other modalities in data.modalities."
                    raise ValueError(self._unknown_column(column, f"data.modalities.{modality.name}") + hint)
                if column in self._targets.columns:
                    raise ValueError(
                        f"data.modalities.{modality.name}: column {column!r} is the target, which cannot also be an input."
                    )
        for setting in ("id", "split", "group"):
            self._column(getattr(self, setting), setting)

    def _column(self, given: str | None, setting: str) -> str | None:
        """Return the column of ids, splits or groups; None if it does not exist."""
        columns = self._columns().columns
        if given == AUTO:
            return setting if setting in columns else None
        if given is not None and given not in columns:
            raise ValueError(self._unknown_column(given, f"data.{setting}"))
        return given

    def _unknown_column(self, column: str, setting: str) -> str:
        table = self._columns()
        if column in table.repeated:
            return f"{setting}: {self.manifest} has several columns named {column!r}; rename all but one."
        return f"{setting}: {self.manifest} has no column {column!r}, only {', '.join(table.columns)}."

    def _folder(self) -> Folder:
        """Return the base of the paths in cells."""
        return self.root

    def _ids(self) -> RowIds:
        return RowIds(table=self._columns(), column=self._column(self.id, "id"))
