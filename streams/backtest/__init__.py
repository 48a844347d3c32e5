"""The volume detector on series that have nothing to do with SMS: files of `timestamp,value` in, scores per tick out.

How a carrier tries it on last year's data. What a file's output says up to a moment depends on that file alone, up to
that moment alone.
"""
