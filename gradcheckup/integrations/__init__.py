"""Where the numbers of a watched run go: trainers and loggers, each imported only when asked for.

Loggers are functions, `log(monitor, ...)` of `tensorboard`, `wandb` and `mlflow`: called once,
after `gradcheckup.watch`. The monitor then calls them after each sampled step
(`Monitor.on_sample`). Trainers have a callback, `GradcheckupCallback` of `lightning` and
`transformers`, which watches when the training begins, hands `Monitor.scalars` to the trainer's own
loggers, and stops when it ends.
"""

from __future__ import annotations
