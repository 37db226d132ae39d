"""Many videos: one job for each, by processes on this machine, by shards on many, or through Ray.

`read_videos` says which, `settings_of` how, `begin` makes the folder, `run_local` or `run_ray` do the work and give what
became of each. A batch may be stopped at any moment in any way, and run again: what is done is not touched.
"""

from pixeltrail.batch.executors import run_local, run_ray
from pixeltrail.batch.job import Job, Result, begin, finished, report_failures, run_job, settings_of, share
from pixeltrail.batch.manifest import Video, read_videos

__all__ = [
    "Job", "Result", "Video", "begin", "finished", "read_videos", "report_failures", "run_job", "run_local", "run_ray",
    "settings_of", "share",
]  # fmt: skip
