-- expect: not available
-- Case 15.
collectgarbage("stop")
