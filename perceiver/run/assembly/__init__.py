"""Parts of a run as its configuration names them: data, spec, task and trainer."""
