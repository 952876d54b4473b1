"""The data plane: one worker process serves requests from frozen snapshots."""
