"""Bytes and text from outside in, findings out: fuzzing of every decoder. The table of them is in `table`.

`make fuzz` lets coverage lead where that pays; `make test` runs the same targets for a moment with inputs
made by chance from a seed (`test_fuzz`).
"""
