-- Renews a membership, and returns the marks that its copy lacks.
-- ARGV[4]  proxy
-- ARGV[5]  its lease in milliseconds; 0 for none
-- ARGV[6]  1 if it serves from memory under that lease, so that writes wait for it
-- ARGV[7]  its period: milliseconds within which it syncs several times
-- ARGV[8]  epoch of the marks that it has applied, '0' for none
-- ARGV[9]  sequence up to which it has applied them
-- ARGV[10] epoch of the generation that it has read, '0' for none
-- ARGV[11] that generation
-- ARGV[12] 1 to return the members that are behind
-- ARGV[13] maximum number of marks returned
-- ARGV[14] maximum number of due intents returned
-- ARGV[15] number of its rules in this process, from 1
-- ARGV[16] its rules: a digest for each family
-- ARGV[17] 1 if these rules are settled: the other members know them, and what they conflict with was invalidated
-- ARGV[18] revision of the registry that it has taken in, 0 for none
-- ARGV[19] 1 to return the registry although its revision is that one
-- Returns two lists. First epoch, last sequence issued, cause ('' if no epoch had to be started), whether marks are returned, marks and
-- their sequences, due intents and their tags, the state of the epoch, soft marks with their sequences and the
-- microseconds left of their graces, the generation, the members that are behind if requested; the end of the last silence,
-- whether proxies without a record may be behind, the number of other members if requested. Then the revision of the registry, the
-- revision that registered this proxy's rules, whether the registry is returned, and of it: the different rules of the other
-- members, if none of them has settled its own the rules that were settled last, how many members have not taken in this proxy's rules, the bypasses.
local meta, cause = valid_epoch()
remove_registry_of_other_type()
local id, lease, epoch_applied, applied, most = ARGV[4], tonumber(ARGV[5]), ARGV[8], tonumber(ARGV[9]), tonumber(ARGV[13])
local time = now()

local function times()
  return redis.call('HMGET', META, 'last_sync', 'silent_until', 'unknown', 'generation', 'shortest', 'shortest_at', 'tidied', 'born', 'silent_from')
end
local field = times()
local tidied = tonumber(field[7] or '') or 0
local is_tidy = time - tidied < 10000000 and time >= tidied

local all, lost = {}, ''
if ARGV[12] == '1' or not is_tidy then
  local foreign
  all, foreign = members()
  lost = lost_members(foreign) and 'members lost' or ''
end
local due = {}
for _, intent in ipairs(redis.call('ZRANGEBYSCORE', INTENTS, '-inf', text(time), 'LIMIT', 0, ARGV[14])) do
  if is_intent(intent) then
    local tags = redis.call('HGET', INTENT_TAGS, intent)
    due[#due + 1] = intent
    -- Lost tags: the intent may have been about anything.
    due[#due + 1] = tags and #tags <= TAGS_MAX and tags or '*'
  else
    redis.call('ZREM', INTENTS, intent)
    redis.call('HDEL', INTENT_TAGS, intent)
    lost = 'intents lost'
  end
end
if lost ~= '' and cause == '' then
  cause = lost
  meta, field = start_epoch(meta.seq, cause), times()
end

-- A silence is a period without any sync: an outage for all proxies, or no proxy was running. The generation is raised at
-- its end. A sync that was sent before cannot repeat it, even if it is executed later.
local last_sync, generation = tonumber(field[1] or '') or 0, tonumber(field[4] or '') or 0
local silent_until, unknown = tonumber(field[2] or '') or 0, field[3] == '1'
local silent_from, period = tonumber(field[9] or '') or 0, tonumber(ARGV[7])
local shortest, shortest_at = tonumber(field[5] or '') or period, tonumber(field[6] or '') or 0
if time - last_sync >= shortest * 1000 or time < last_sync then
  -- A proxy that has never synced answers writes after five seconds, and in a young epoch some may not have synced. Silences in
  -- quick succession leave them no time to return.
  local is_young = last_sync - (tonumber(field[8] or '') or 0) < math.max(longest_lease(), period) * 1000
  local is_next = last_sync - silent_until < 10000000
  local is_long = time - last_sync >= 4000000 or time < last_sync
  unknown = is_long or is_young or is_next and unknown
  silent_from, silent_until = is_next and silent_from or last_sync, time
  generation = generation + 1
  redis.call('PUBLISH', CHANNEL, table.concat({ 'g', meta.epoch, text(generation) }, ' '))
end
-- If no proxy has confirmed the shortest period for 10 s, no proxy has it any more.
if period <= shortest or time - shortest_at > 10000000 then
  shortest, shortest_at = period, time
end
redis.call('HSET', META, 'last_sync', text(time), 'silent_from', text(silent_from),
  'silent_until', text(silent_until), 'unknown', unknown and '1' or '0',
  'generation', text(generation), 'shortest', text(shortest), 'shortest_at', text(shortest_at))

-- Follows the clock, so that a member that was expelled and has come back is never mistaken for the expelled one.
local known = redis.call('HGET', MEMBERS, id) or ''
local syncs, epoch_before, before, epoch_seen, seen = string.match(known, '^(%d+):%d+:(%d+):(%d+):(%d+):(%d+)$')
syncs = next_sequence(sequence(syncs) or 0)
local waited_for = ARGV[6] == '1' and ARGV[5] or '0'
-- A sync that is executed late does not take back the generation of a later one.
local repeats = ARGV[10] ~= '0' and (ARGV[10] ~= epoch_seen or tonumber(ARGV[11]) > tonumber(seen))
if repeats and not (epoch_seen == meta.epoch and ARGV[10] ~= meta.epoch) then
  epoch_seen, seen = ARGV[10], ARGV[11]
end
redis.call('HSET', MEMBERS, id, table.concat({ text(syncs), waited_for, epoch_applied, text(applied), epoch_seen or '0', seen or '0' }, ':'))
if epoch_applied ~= '0' and (epoch_applied ~= epoch_before or applied > tonumber(before)) then
  redis.call('PUBLISH', CHANNEL, table.concat({ 'a', id, epoch_applied, text(applied) }, ' '))
end
if repeats then
  redis.call('PUBLISH', CHANNEL, table.concat({ 's', id, ARGV[10], ARGV[11] }, ' '))
end

-- A delayed sync with a lower number must not overwrite newer rules. A member whose record was lost registers its rules again.
local previous = sequence(redis.call('HGET', META, 'revision'))
local number, registered, learned, settled, rules = registration(id)
local own, is_changed = tonumber(ARGV[15]), false
learned = learned or 0
if not number or own > number or own == number and (known == '' or rules ~= ARGV[16]) then
  number, registered, settled, rules, is_changed = own, revise(), '0', ARGV[16], true
elseif own == number and settled == '0' and ARGV[17] == '1' then
  settled, is_changed = '1', true
  redis.call('HSET', REGISTRY, SETTLED, rules)
end
if redis.call('HEXISTS', META, 'revision') == 0 then
  -- The revision was lost, and not this proxy's rules.
  revise()
end
if tonumber(ARGV[18]) > learned then
  learned, is_changed = tonumber(ARGV[18]), true
  redis.call('PUBLISH', CHANNEL, table.concat({ 'k', id, ARGV[18] }, ' '))
end
if is_changed then
  redis.call('HSET', REGISTRY, id, table.concat({ text(number), text(registered), text(learned), settled, rules }, ':'))
end

-- The proxy with the longest lease confirms it several times before it ends. If none has, no proxy holds it any more.
local longest = longest_lease()
local confirmed = tonumber(redis.call('HGET', META, 'lease_at') or '') or 0
if lease >= longest or time - confirmed > longest * 1000 then
  longest = math.max(lease, lease < longest and longest_of_members() or 0)
  redis.call('HSET', META, 'lease', text(longest), 'lease_at', text(time))
end

-- A member that has not repeated the generation may have pending invalidations from the last silence. Not so a member whose
-- last sync was long before it: it was down or cut off alone, and answers writes like a proxy that has never synced. Nor a
-- member that has not returned long after it: the others have given it up by then.
local LONG, GIVEN_UP = math.max(10000000, period * 1000), 60000000
local function is_behind(record)
  local last = string.match(record, '^(%d+):')
  -- An older version of Larder never repeats the generation.
  local epoch_seen, seen = string.match(record, '^%d+:%d+:%d+:%d+:(%d+):(%d+)$')
  if generation == 0 or epoch_seen == meta.epoch and tonumber(seen) >= generation then
    return false
  end
  return tonumber(last) >= silent_from - LONG and time - silent_until < GIVEN_UP
end
-- A clock that is set forward looks like a silence; running members are behind then, and stay.
local function is_gone(record)
  local last, lease = string.match(record, '^(%d+):(%d+):')
  return last and time - tonumber(last) >= LONG + tonumber(lease) * 1000 and not is_behind(record)
end
local behind, others = {}, 0
if ARGV[12] == '1' or not is_tidy then
  for i = 1, #all, 2 do
    local member, record = all[i], all[i + 1]
    if member ~= id and is_gone(record) then
      remove_member(member)
    elseif member ~= id then
      others = others + 1
      if is_behind(record) then
        behind[#behind + 1], behind[#behind + 2] = member, record
      end
    end
  end
  redis.call('HSET', META, 'tidied', text(time))
  -- Rules of members whose records were lost. Beside its members, either hash has one more field.
  if redis.call('HLEN', REGISTRY) > redis.call('HLEN', MEMBERS) then
    local registered = redis.call('HGETALL', REGISTRY)
    for i = 1, #registered, 2 do
      if registered[i] ~= SETTLED and redis.call('HEXISTS', MEMBERS, registered[i]) == 0 then
        redis.call('HDEL', REGISTRY, registered[i])
      end
    end
  end
end
if ARGV[12] ~= '1' then
  behind, others = {}, 0
end

-- Read again: a member that is gone has begun a revision.
local revision = redis.call('HGET', META, 'revision')
local is_returned = ARGV[19] == '1' or ARGV[18] ~= revision
local others_rules, last, unlearned, bypasses = {}, {}, 0, {}
if is_returned then
  local known_rules, has_settled = {}, false
  local everybody = members()
  for i = 1, #everybody, 2 do
    if everybody[i] ~= id then
      local number, _, learned, settled, rules = registration(everybody[i])
      rules, has_settled = number and rules or UNKNOWN, has_settled or settled == '1'
      if not number or learned < registered then
        unlearned = unlearned + 1
      end
      if not known_rules[rules] then
        known_rules[rules], others_rules[#others_rules + 1] = true, rules
      end
    end
  end
  if not has_settled then
    -- What is stored may be from a time when other rules were in force. A member whose rules are not settled has not invalidated it.
    local rules = redis.call('HGET', REGISTRY, SETTLED)
    if rules or previous then
      last = { rules and string.match(rules, '^[%x ]*$') or UNKNOWN }
    end
  end
  if redis.call('HLEN', BYPASSES) <= 200 then
    bypasses = redis.call('HGETALL', BYPASSES)
  end
end

local MARKS_BYTES_MAX = 16 * 1048576
-- Below the floor, marks that the copy lacks may have been removed.
local marks, whole = {}, epoch_applied == meta.epoch and applied >= meta.floor
if whole then
  marks = redis.call('ZRANGEBYSCORE', MARKS, '(' .. text(applied), '(+inf', 'WITHSCORES', 'LIMIT', 0, most + 1)
  whole = #marks <= 2 * most
  local bytes = 0
  for i = 1, #marks, 2 do
    bytes = bytes + #marks[i]
  end
  -- More would block the connection; the proxy drops its copy instead.
  whole = whole and bytes <= MARKS_BYTES_MAX
end

-- A soft mark whose grace has ended is returned as a hard one.
local hard, soft = {}, {}
for i = 1, whole and #marks or 0, 2 do
  local tag = tag_of_soft_mark(marks[i])
  local left = tag and end_of_grace(tag) - time or 0
  if left > 0 then
    soft[#soft + 1], soft[#soft + 2], soft[#soft + 3] = tag, marks[i + 1], text(left)
  else
    hard[#hard + 1], hard[#hard + 2] = tag or marks[i], marks[i + 1]
  end
end

return {
  {
    meta.epoch, text(meta.seq), cause, whole and 1 or 0, hard, due, state(), soft,
    text(generation), behind,
    { text(silent_until), unknown and 1 or 0, others },
  },
  { revision, text(registered), is_returned and 1 or 0, others_rules, last, unlearned, bypasses },
}
