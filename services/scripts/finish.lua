-- Give a job its one final state, if the caller still holds it.
-- ARGV: id, fence, status, result as JSON or '', error as JSON or '', ttl s, token of this ending,
--   bytes of the result
-- Returns 1 if this state was made final, 0 if it was too late for it.
go_on_without_memory()
local id = ARGV[1]
-- asked again, because the answer was lost
if get(id, 'ended_by') == ARGV[7] then return 1 end
if not holds(id, ARGV[2]) then return 0 end
if ARGV[3] == 'succeeded' and get(id, 'wish') == 'cancel' then
  finalise(id, 'canceled', tonumber(ARGV[6]), now())
  return 0
end
redis.call('HSET', JOB .. id, 'ended_by', ARGV[7])
if ARGV[4] ~= '' then redis.call('HSET', JOB .. id, 'result', ARGV[4]) end
if ARGV[5] ~= '' then redis.call('HSET', JOB .. id, 'error', ARGV[5]) end
if ARGV[3] == 'succeeded' then keep(get(id, 'owner'), id, ARGV[8], tonumber(ARGV[6]), now()) end
if ARGV[3] == 'expired' and ARGV[5] == '' then
  expire(id, tonumber(ARGV[6]), now())
else
  finalise(id, ARGV[3], tonumber(ARGV[6]), now())
end
return 1
