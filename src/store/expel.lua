-- Ends the waiting of writes for a member, unless it has synced meanwhile and so has a new lease. Its record stays, so that
-- proxies that return from an outage still wait for it.
-- KEYS[1]  {namespace}:members
-- ARGV[1]  proxy
-- ARGV[2]  its `syncs` field when its lease was waited for
-- Returns 1 if it was expelled.
local member = redis.call('HGET', KEYS[1], ARGV[1])
local syncs, lease, rest = string.match(member or '', '^(%d+):(%d+):(.*)$')
if syncs ~= ARGV[2] or lease == '0' then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[1], syncs .. ':0:' .. rest)
return 1
