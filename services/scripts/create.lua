-- Create a job once: idempotency, limits, record, queue and first event in one step.
-- ARGV: id, owner, lane, head start ms, idempotency name or '', fingerprint, ttl s, most active of
--   the owner, most queued, deadline ms from now, record as JSON, status 'queued'|'succeeded',
--   s from its making in which a job is over and forgotten
-- Returns {'created'|'replayed', id}, or {'conflict'|'quota'|'full', ''}.
local id, owner, lane, name, fingerprint = ARGV[1], ARGV[2], ARGV[3], ARGV[5], ARGV[6]
local idempotency = IDEMPOTENCY .. name
-- asked again, because the answer was lost: it may have been claimed meanwhile, or be over
if redis.call('EXISTS', JOB .. id) == 1 then return {'created', id} end
if name ~= '' then
  local known = redis.call('GET', idempotency)
  if known then
    local cut = string.find(known, ' ', 1, true)
    if string.sub(known, 1, cut - 1) ~= fingerprint then return {'conflict', ''} end
    local first = string.sub(known, cut + 1)
    -- unless it has been deleted since
    if redis.call('EXISTS', JOB .. first) == 1 then return {'replayed', first} end
  end
end
local waits = ARGV[12] == 'queued'
if waits and redis.call('ZCARD', ACTIVE .. owner) >= tonumber(ARGV[8]) then return {'quota', ''} end
if waits and redis.call('ZCARD', QUEUED .. lane) >= tonumber(ARGV[9]) then return {'full', ''} end
local at = now()
for field, value in pairs(cjson.decode(ARGV[11])) do
  redis.call('HSET', JOB .. id, field, value)
end
redis.call('HSET', JOB .. id, 'id', id, 'owner', owner, 'lane', lane, 'created_ms', at,
  'order', at - ARGV[4], 'attempts', 0, 'failures', 0, 'fence', 0)
redis.call('ZADD', ALL .. owner, at, id)
redis.call('ZREMRANGEBYSCORE', ALL .. owner, '-inf', at - ARGV[13] * 1000)
redis.call('EXPIRE', ALL .. owner, tonumber(ARGV[13]))
if name ~= '' then
  -- it ends with the record, whose time begins with the job's end
  redis.call('SET', idempotency, fingerprint .. ' ' .. id)
  redis.call('HSET', JOB .. id, 'idempotency', name)
end
if not waits then
  redis.call('HSET', JOB .. id, 'started_ms', at)
  finalise(id, ARGV[12], tonumber(ARGV[7]), at)
  return {'created', id}
end
redis.call('ZADD', ACTIVE .. owner, at, id)
redis.call('HSET', JOB .. id, 'deadline_ms', at + ARGV[10])
redis.call('ZADD', DEADLINES, at + ARGV[10], id)
enqueue(id)
return {'created', id}
