"""Where a model is: what a user may give as one, and the folder that transformers can load."""

from pathlib import Path


def resolve_model(name_or_path: str, flag: str = "") -> str:
    """The folder (or hub id) that transformers can load: a HF folder, a trainer checkpoint's ``huggingface/``, or a hub
    id. flag: what the user gave it with, for the messages.

    Raises ValueError before anything is loaded when a local path holds no model.
    """
    path, given = Path(name_or_path).expanduser(), f"{flag}=" if flag else ""
    if path.is_dir():
        for folder in (path, path / "huggingface"):
            if (folder / "config.json").is_file():
                return str(folder)
        steps = sorted(p.name for p in path.glob("global_step_*"))
        hint = f" It holds the checkpoints {', '.join(steps)}: name one of them." if steps else ""
        raise ValueError(
            f"expected a model in {given}{path}: no config.json there nor in its huggingface/ folder.{hint}"
        )
    looks_local = path.is_absolute() or str(name_or_path).startswith((".", "~")) or str(name_or_path).count("/") > 1
    if looks_local or path.exists():
        raise ValueError(f"expected a model folder or a hub id like Qwen/Qwen2.5-0.5B, found no folder {given}{path}")
    return str(name_or_path)
