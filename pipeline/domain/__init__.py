"""The pure room: what an event is, how it is judged, what is written next, and how the books balance.

Nothing here knows Faust, Kafka, HTTP, a clock or chance; callers hand in `now` and random draws.
"""
