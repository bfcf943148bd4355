"""What every child process of this program needs: workers, decoder processes, template processes.

wire          JSON messages and raw bytes over a Unix socket, files as descriptors
process_log   a child's log and output reach the log of its parent
exit_status   how a process ended, in words; whether the kernel ended it for memory
"""
