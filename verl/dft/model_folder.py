"""Where a model is: what a user may give as one, and the folder that transformers can load."""

from pathlib import Path


def resolve_model(name_or_path: str) -> str:
    """The folder (or hub id) that transformers can load: a HF folder, a trainer checkpoint's ``huggingface/``, or a hub
    id.

    Raises ValueError before anything is loaded when a local path holds no model.
    """
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        for folder in (path, path / "huggingface"):
            if (folder / "config.json").is_file():
                return str(folder)
        steps = sorted(p.name for p in path.glob("global_step_*"))
        hint = f" It holds the checkpoints {', '.join(steps)}: name one of them." if steps else ""
        raise ValueError(f"expected a model in {path}: no config.json there nor in its huggingface/ folder.{hint}")
    looks_local = path.is_absolute() or str(name_or_path).startswith((".", "~")) or str(name_or_path).count("/") > 1
    if looks_local or path.exists():
        raise ValueError(f"expected a model folder or a hub id, found no folder {path}")
    return str(name_or_path)
