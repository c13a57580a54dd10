-- Removes an entry if it is still the one that was judged: a newer one may have taken its place.
-- KEYS[1]  the entry
-- ARGV[1]  with what it began
-- Returns 1 if it was removed.
if redis.pcall('GETRANGE', KEYS[1], 0, #ARGV[1] - 1) == ARGV[1] then
  return redis.call('UNLINK', KEYS[1])
end
return 0
