-- Removes a member unless it has synced meanwhile: its lease would be a new one.
-- KEYS[1]  {namespace}:members
-- ARGV[1]  proxy
-- ARGV[2]  its syncs, as they were when its lease was waited for
-- Returns 1 if it was removed.
local member = redis.call('HGET', KEYS[1], ARGV[1])
if member and string.match(member, '^%d+') == ARGV[2] then
  return redis.call('HDEL', KEYS[1], ARGV[1])
end
return 0
