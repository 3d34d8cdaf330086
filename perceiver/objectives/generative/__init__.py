"""Objectives of models that generate: images and fields by flow matching, texts id by id."""
