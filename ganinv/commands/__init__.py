"""The commands, one module each; scripts/ and the console entry points call their main()."""

import ganinv.cli  # noqa: F401  (first: it sets how OpenMP threads wait, which torch reads when it is imported)
