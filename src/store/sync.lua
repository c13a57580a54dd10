-- Renews a membership, and tells what its copy of the marks lacks.
-- ARGV[4]  proxy, or '' for one that is no member
-- ARGV[5]  its lease in milliseconds; 0 for one that trusts nothing for any time
-- ARGV[6]  epoch of what it has applied, '0' for none
-- ARGV[7]  sequence up to which it has
-- ARGV[8]  marks to tell at most
-- ARGV[9]  due intents to tell at most
-- Returns epoch, last sequence issued, cause ('' if no epoch had to be started), whether marks are told, marks and
-- their sequences, due intents and their tags, the state of the epoch, soft marks with their sequences and the
-- microseconds left of their graces.
local meta, cause = valid_epoch()
local id, epoch_applied, applied, most = ARGV[4], ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8])

-- By the clock, so that a member that was expelled and has come back is never taken for the one expelled.
local known = redis.call('HGET', MEMBERS, id) or ''
local syncs, epoch_before, before = string.match(known, '^(%d+):%d+:(%d+):(%d+)$')
syncs = next_sequence(tonumber(syncs) or 0)
if id ~= '' then
  redis.call('HSET', MEMBERS, id, table.concat({ text(syncs), ARGV[5], epoch_applied, text(applied) }, ':'))
end
if epoch_applied ~= '0' and (epoch_applied ~= epoch_before or applied > tonumber(before)) then
  redis.call('PUBLISH', CHANNEL, table.concat({ 'a', id, epoch_applied, text(applied) }, ' '))
end

-- Whoever has the longest lease confirms it several times in its course. When nobody has, nobody holds one any more.
local lease, longest = tonumber(ARGV[5]), longest_lease()
local confirmed = tonumber(redis.call('HGET', META, 'lease_at') or '') or 0
if lease >= longest or now() - confirmed > longest * 1000 then
  longest = math.max(lease, lease < longest and longest_of_members() or 0)
  redis.call('HSET', META, 'lease', text(longest), 'lease_at', text(now()))
end

-- Below the floor, marks that it lacks may have been removed.
local marks, whole = {}, epoch_applied == meta.epoch and applied >= meta.floor
if whole then
  marks = redis.call('ZRANGEBYSCORE', MARKS, '(' .. text(applied), '(+inf', 'WITHSCORES', 'LIMIT', 0, most + 1)
  whole = #marks <= 2 * most
end

-- One whose grace is over is told as a hard one.
local hard, soft = {}, {}
for i = 1, whole and #marks or 0, 2 do
  local tag = softened(marks[i])
  local left = tag and end_of_grace(tag) - now() or 0
  if left > 0 then
    soft[#soft + 1], soft[#soft + 2], soft[#soft + 3] = tag, marks[i + 1], text(left)
  else
    hard[#hard + 1], hard[#hard + 2] = tag or marks[i], marks[i + 1]
  end
end

local due = {}
for _, intent in ipairs(redis.call('ZRANGEBYSCORE', INTENTS, '-inf', text(now()), 'LIMIT', 0, ARGV[9])) do
  due[#due + 1] = intent
  -- Lost tags: it may have been anything.
  due[#due + 1] = redis.call('HGET', INTENT_TAGS, intent) or '*'
end
return { meta.epoch, text(meta.seq), cause, whole and 1 or 0, hard, due, state(), soft }
