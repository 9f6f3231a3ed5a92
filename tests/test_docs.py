"""The table of tasks in docs/exporting.md is what the code's own table says."""

from pathlib import Path

from wherry_exporter.tasks import TASKS

PAGE = Path(__file__).parents[1] / "docs" / "exporting.md"


def table() -> str:
    rows = []
    for name, task in TASKS.items():
        outputs = ", ".join(f"`{output}`" for output in task.outputs)
        rows.append(f"| `{name}` | {outputs} | {', '.join(task.precisions)} |\n")
    return "".join(rows)


def test_the_table_of_tasks():
    assert table() in PAGE.read_text(encoding="utf-8")
