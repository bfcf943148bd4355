"""Processes and their supervision: a group of workers that is started, watched, restarted and
closed.

engine       the driver's side: callers in turn, one group of workers
group        the workers of one start: sent requests, listened to, ended from any thread
launcher     starts and ends workers as subprocesses
worker       one rank: a process that listens and ends when the driver is gone
serving      what it does: loads the model, joins the group, answers requests
channel      messages between driver and worker, and signs of life
liveness     which ranks are dead, stopped or waiting in vain, and in which stage
fair_lock    callers from several threads wait in the order they came
oom          memory that ran out, reported as such
settings     what a worker is given at its start
torchrun/    ranks that torchrun has started, on one machine or several
"""
