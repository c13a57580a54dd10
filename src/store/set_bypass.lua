-- Begins a bypass of a family, gives it another end, or ends it.
-- ARGV[4]  family
-- ARGV[5]  when it ends, microseconds; 0 ends it
-- ARGV[6]  by whose order
-- ARGV[7]  maximum number of bypasses
-- Returns whether it was one before, and the revision of the registry that has the change; 0 if there are too many.
valid_epoch()
remove_registry_of_other_type()
local time = now()
local all = redis.call('HGETALL', BYPASSES)
for i = 1, #all, 2 do
  local ending = sequence(string.match(all[i + 1], '^(%d+):'))
  if not ending or ending <= time then
    redis.call('HDEL', BYPASSES, all[i])
  end
end
local was_one = redis.call('HEXISTS', BYPASSES, ARGV[4])
if ARGV[5] == '0' then
  redis.call('HDEL', BYPASSES, ARGV[4])
elseif was_one == 0 and redis.call('HLEN', BYPASSES) >= tonumber(ARGV[7]) then
  return { 0, '0' }
else
  redis.call('HSET', BYPASSES, ARGV[4], ARGV[5] .. ':' .. ARGV[6])
end
return { was_one, text(revise()) }
