-- expect: format too long
-- Case 10.
os.date(("%c"):rep(100000))
