-- expect: is reserved
-- Cases 13 and 15.
load("string = {}")()
