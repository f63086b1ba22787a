"""Kill a run wherever it can hurt, let it resume, and compare how it ends with a run that nobody touched.

`attempts` makes runs in processes of their own, `plan` says where they are killed, `disk` is a disk that fails.
"""
