"""What the process gives up before it sees a file.

restrict       rights, files, network: Landlock, seccomp, capabilities
system_calls   what it may still ask of the kernel
preload        what is loaded before, since nothing can be opened after
"""
