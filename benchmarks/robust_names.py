from benchmarks.form import Row


def names_rows() -> list[Row]:
    return []
