-- Removes the record of a member that did not return after an outage, so that no proxy waits for it any longer. If it runs
-- after a further outage, it removes nothing: the member may have accepted writes during that one.
-- ARGV[4]  proxy
-- ARGV[5]  its `syncs` field when its removal was decided
-- ARGV[6]  the epoch then
-- ARGV[7]  the generation then
-- A member whose lease may be valid stays: writes must wait for it.
-- Returns 1 if it was removed.
local member = redis.call('HGET', MEMBERS, ARGV[4])
local field = redis.call('HMGET', META, 'epoch', 'generation', 'last_sync', 'shortest')
local time = now()
local silent = time - (tonumber(field[3] or '') or 0)
local syncs, lease = string.match(member or '', '^(%d+):(%d+):')
local is_over = syncs and time - tonumber(syncs) >= tonumber(lease) * 1000
local is_silent = silent < 0 or silent >= (tonumber(field[4] or '') or 0) * 1000
local is_behind = field[1] == ARGV[6] and field[2] == ARGV[7]
if is_over and is_behind and not is_silent and syncs == ARGV[5] then
  remove_registry_of_other_type()
  return remove_member(ARGV[4])
end
return 0
