"""The commands, one module each; scripts/ and the console entry points call their main()."""

import ganinv.command_line  # noqa: F401  (first: it sets how OpenMP threads wait, which torch reads when it is imported)
