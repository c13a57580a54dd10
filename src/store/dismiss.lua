-- Removes the record of a member that did not return after an outage, so that no proxy waits for it any longer. If it runs
-- after a further outage, it removes nothing: the member may have accepted writes during that one.
-- KEYS[1]  {namespace}:members
-- KEYS[2]  {namespace}:meta
-- ARGV[1]  proxy
-- ARGV[2]  its `syncs` field when its removal was decided
-- ARGV[3]  the epoch then
-- ARGV[4]  the generation then
-- A member whose lease may be valid stays: writes must wait for it.
-- Returns 1 if it was removed.
local member = redis.call('HGET', KEYS[1], ARGV[1])
local field = redis.call('HMGET', KEYS[2], 'epoch', 'generation', 'heard', 'shortest')
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local silent = now - (tonumber(field[3] or '') or 0)
local syncs, lease = string.match(member or '', '^(%d+):(%d+):')
local is_over = syncs and now - tonumber(syncs) >= tonumber(lease) * 1000
local is_silent = silent < 0 or silent >= (tonumber(field[4] or '') or 0) * 1000
local is_behind = field[1] == ARGV[3] and field[2] == ARGV[4]
if is_over and is_behind and not is_silent and syncs == ARGV[2] then
  return redis.call('HDEL', KEYS[1], ARGV[1])
end
return 0
