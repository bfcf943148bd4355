"""The `spava` command, over the public API only.

main             the program; commands/ has one file per command
option_groups    options that several commands share
config_file, precedence   options from a file and the environment; where a value came from
terminal, logs   errors as one line, progress, JSON; the log on stderr
show_answer      an answer on the terminal
demo             a generated video, one question per card, right or wrong
"""
