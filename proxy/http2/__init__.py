"""HTTP/2 as values and bytes: no sockets, no clock, no streams.

A session inherits from `frames.FrameReader`, which calls it for each frame. It gives every field
block to `heads.RequestReader` or `heads.AnswerReader`, whatever the state of the stream; counts
what its peer does in `limits.ConnectionLimits`; takes note of its settings in
`settings.PeerSettings`; and keeps windows, and content that waits for one, with `flow`. What it
writes are texts to gather in a list: `frames.head_frames` of what `blocks` makes of a head;
`frames.data_header`, and behind it the pieces as they are. `GoAway` ends the connection,
`Malformed` a stream, `Refused` is answered.
"""
