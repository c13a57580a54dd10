-- Removes an entry unless it was replaced since it was judged.
-- KEYS[1]  the entry
-- ARGV[1]  prefix of the judged entry
-- Returns 1 if it was removed.
if redis.pcall('GETRANGE', KEYS[1], 0, #ARGV[1] - 1) == ARGV[1] then
  return redis.call('UNLINK', KEYS[1])
end
return 0
