-- Bring back what got lost: jobs whose worker is silent, jobs past their deadline.
-- ARGV: most failures, lease ms, ttl s
-- Returns how many jobs wait in each lane: lane, count, lane, count...
go_on_without_memory()
local at, ttl_s = now(), tonumber(ARGV[3])
-- a clock that was set back leaves leases that would last too long
for _, id in ipairs(redis.call('ZRANGEBYSCORE', RUNNING, at + 2 * ARGV[2], '+inf', 'LIMIT', 0, 100)) do
  redis.call('ZADD', RUNNING, at + ARGV[2], id)
end
-- and messages that would wait too long
local back = tonumber(redis.call('GET', CLOCK) or 0) - at
if back > 2 * ARGV[2] then
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', OUTBOX, at, '+inf')) do
    redis.call('ZINCRBY', OUTBOX, -back, id)
  end
end
redis.call('SET', CLOCK, at)
for _, id in ipairs(redis.call('ZRANGEBYSCORE', RUNNING, '-inf', at, 'LIMIT', 0, 100)) do
  redis.call('ZREM', RUNNING, id)
  if get(id, 'status') == 'running' then
    local wish = get(id, 'wish')
    redis.call('HDEL', JOB .. id, 'wish', 'release')
    -- whoever held it is fenced off from now on
    redis.call('HINCRBY', JOB .. id, 'fence', 1)
    if wish == 'cancel' then
      finalise(id, 'canceled', ttl_s, at)
    elseif is_late(id, at) then
      expire(id, ttl_s, at)
    elseif wish == 'pause' then
      enter(id, 'paused')
    elseif tonumber(get(id, 'failures')) >= tonumber(ARGV[1]) then
      fail(id, 'poison', 'Poison', 'its worker died each time and it is not tried again; where memory '
        .. 'was short, a smaller size or fewer pictures help', ttl_s, at)
    else
      enqueue(id, true)
    end
  end
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', DEADLINES, '-inf', at, 'LIMIT', 0, 100)) do
  local status = get(id, 'status')
  if status == 'queued' or status == 'paused' then
    expire(id, ttl_s, at)
  elseif status ~= 'running' then
    redis.call('ZREM', DEADLINES, id)
  end
end
local waiting = {}
for _, lane in ipairs(LANES) do
  table.insert(waiting, lane)
  table.insert(waiting, redis.call('ZCARD', QUEUED .. lane))
end
return waiting
